"""COMET: its checkpoints, an engine that scores with them, and the metric made of both.

The engine runs in this interpreter or in that of another environment, where mtcpo is not installed: so its modules need
only torch, transformers, unbabel-comet and a few modules of ours (tests/test_architecture.py names them).
"""
