"""The settings of training, apart from its code: a recipe is read and checked without waiting for torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mtcpo.config import Config

DType = Literal["float32", "bfloat16", "float16", "auto"]
LossName = Literal["sft", "sigmoid", "hinge", "ipo", "simpo"]


class LossConfig(Config):
    """Which loss, and its parameters. `sft` has no preference term: the NLL of the chosen (or only) target."""

    loss: LossName = "sigmoid"
    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """sigmoid and simpo: the probability that the preference is the wrong way round."""
    simpo_gamma: float = 0.5
    """The target margin of simpo, after beta."""
    cpo_alpha: float = Field(default=1.0, ge=0)
    """Weight of the NLL of the chosen target; simpo with cpo_alpha > 0 is CPO-SimPO."""
    nll_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of the NLL. A model that was trained with it is sharpened by a plain NLL; 0.1 is usual in MT."""
    nll_normalization: Literal["token", "sentence"] = "token"
    """NLL as a mean over tokens (as published code has it) or summed per sentence (as the CPO paper writes it)."""


class LoraConfig(Config):
    """Low-rank adapters (peft); after training they are merged into the weights."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"


class TrainConfig(LossConfig):
    """One training stage: the loss and its parameters, batches, limits, and any field of the library's arguments."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a batch with its padding; per_device_train_batch_size still bounds its pairs."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["model"] = 0.0
    """0 unless asked for: chosen and rejected should differ by their text alone. "model": what its config says."""
    max_source_tokens: int | None = Field(default=None, ge=1)
    max_target_tokens: int | None = Field(default=None, ge=1)
    """Longer examples are dropped and counted. Default: what the model can take."""
    dtype: DType = "auto"
    """Of the weights. auto: float32 for full training (bf16 arithmetic on a GPU), the GPU's best for LoRA."""
    lora: LoraConfig | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers.Seq2SeqTrainingArguments."""
