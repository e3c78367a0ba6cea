"""Settings for where and how COMET scores. Only `precision` changes scores by more than rounding."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo

from mtcpo.core.config import CommandLineText, Config


def _absolute(value: Any, info: ValidationInfo) -> Any:
    """Make a path absolute without resolving links: a virtual environment's python is a link to a file outside it."""
    if not isinstance(value, str) or os.sep not in value:
        return value
    from_recipe = info.context and not isinstance(value, CommandLineText)
    base = str(info.context["base"]) if from_recipe and info.context else str(Path.cwd())
    return os.path.abspath(os.path.join(base, os.path.expanduser(value)))  # noqa: PTH100, PTH111, PTH118


class CometConfig(Config):
    """How COMET models are run.

    precision: of the encoder's matrix products; the rest is float32. auto: float32 on a CPU, bfloat16 on a GPU, or
    float16 on one without bfloat16. python: interpreter of the environment that scores; unset: this one. processes:
    unset: one per GPU, or one. batch_tokens: padded tokens in a batch; unset: chosen by device.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    python: Annotated[str, BeforeValidator(_absolute)] | None = None
    processes: int | None = Field(None, ge=1)
    batch_tokens: int | None = Field(None, ge=1)
