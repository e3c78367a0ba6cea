"""COMET: its checkpoints, the engine that computes scores with them, and the metric that uses both.

The engine may run in another Python environment, where mtcpo and its dependencies are not installed. Its modules
therefore import only torch, transformers, unbabel-comet and the few other modules of mtcpo that
tests/test_architecture.py lists.
"""
