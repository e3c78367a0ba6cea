"""The engine behind the COMET metrics: checkpoints, and their scores.

It needs torch, transformers and unbabel-comet, and nothing of ours but `errors`, so that it can run in the interpreter
of another environment, where mtcpo is not installed.
"""
