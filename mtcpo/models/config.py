"""Settings of a model other than its name: prompt, family, precision, quantization, LoRA adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from mtcpo.core.config import Config
from mtcpo.models.families import Family

DType = Literal["float32", "bfloat16", "float16", "auto"]

TranslationDType = Literal["float32", "bfloat16", "float16", "int8", "auto"]
"""Precision for translating: int8 is for CTranslate2, which computes with it but does not train."""

EngineName = Literal["auto", "transformers", "ctranslate2", "vllm"]
"""A row of ENGINES in `mtcpo/translation/engines/registry.py`, or "auto": the fastest that is installed and proven."""

Quantization = Literal["4bit", "8bit"]


class LoraConfig(Config):
    """Low-rank adapters (peft). Training writes a directory of adapters or, with `merge`, a whole model."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Suffixes of layer names, or a regular expression for full names. Default: attention and feed-forward layers."""
    quantization: Quantization | None = None
    """Load the frozen base in 4 or 8 bits (QLoRA), with bitsandbytes; meant for NVIDIA GPUs, slow on CPUs."""
    merge: bool = False
    """Merge the adapters into the weights at the end, and keep them in the model's folder `adapter`."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What a user may set for a model besides its name, wherever a model is named.

    prompt: template that replaces the family's.
    family: replaces the one declared for the model's type.
    allow_code: run Python code in the model's directory; if False, such a model is refused.
    engine: what translates with it; an `EngineName`.
    """

    prompt: str | None = None
    family: Family | None = None
    allow_code: bool = False
    engine: str = "auto"


DEFAULT_OPTIONS = ModelOptions()
