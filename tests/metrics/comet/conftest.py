"""The tiny checkpoints that all tests of COMET score with."""

from support.comet import models

__all__ = ["models"]
