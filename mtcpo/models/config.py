"""Settings of a model: precision, quantization, LoRA adapters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mtcpo.core.config import Config

DType = Literal["float32", "bfloat16", "float16", "auto"]

Quantization = Literal["4bit", "8bit"]


class LoraConfig(Config):
    """Low-rank adapters (peft). What is written is a directory of adapters; with `merge` a whole model."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of layers, or a pattern over whole names. Default: the family's, attention and feed-forward layers."""
    quantization: Quantization | None = None
    """The frozen base in 4 or 8 bits (QLoRA), by bitsandbytes; meant for NVIDIA GPUs, slow on CPUs."""
    merge: bool = False
    """Merge the adapters into the weights at the end; they themselves are then in the folder `adapter` of the model."""
