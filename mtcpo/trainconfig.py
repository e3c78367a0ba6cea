"""The settings of training, apart from its code: a recipe is read and checked without waiting for torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mtcpo.config import Config, PathOrName
from mtcpo.corpora import CorpusConfig, Language
from mtcpo.errors import UserError
from mtcpo.metrics import MetricSpec, metric_kind, metric_name
from mtcpo.translation import TranslateConfig

DType = Literal["float32", "bfloat16", "float16", "auto"]
Quantization = Literal["4bit", "8bit"]
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


class DevConfig(CorpusConfig):
    """A dev set, translated at every evaluation with the code of `mtcpo evaluate`; the best checkpoint is chosen on it.

    The corpus needs references. The metrics are logged as eval_bleu, eval_chrf, ...; unless train.args says otherwise,
    the first of them chooses the checkpoint that is kept.
    """

    metrics: tuple[MetricSpec, ...] = Field(("chrf", "bleu"), min_length=1)
    decoding: TranslateConfig = TranslateConfig()
    samples: int = Field(3, ge=0)
    """Translations logged at every evaluation, spread evenly over the set."""

    @model_validator(mode="after")
    def _can_be_scored(self) -> DevConfig:
        if self.src_lang is None or self.tgt_lang is None:
            raise ValueError("a dev set needs src_lang and tgt_lang")
        if self.decoding.num_candidates != 1:
            raise ValueError("decoding.num_candidates: a dev set is scored by one translation of each source")
        try:
            names = [metric_name(spec) for spec in self.metrics if metric_kind(spec)]
        except UserError as error:
            raise ValueError(str(error)) from None
        if len(set(names)) < len(names):
            raise ValueError("metrics: one of them is named twice")
        return self


class EvalConfig(Config):
    """Pairs that training does not see; loss, rewards, accuracies and margins on them are logged as eval_*."""

    prefs: PathOrName
    src_lang: Language | None = None
    tgt_lang: Language | None = None
    """Languages of triplets that do not say theirs."""


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
    eval: EvalConfig | None = None
    dev: DevConfig | None = None
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations in a row without a better train.args.metric_for_best_model."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers.Seq2SeqTrainingArguments."""
