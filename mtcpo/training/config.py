"""The settings of training, separate from its code: recipes are read and checked without importing torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mtcpo.core.config import Config, as_value_error, load_section
from mtcpo.data.config import CorpusConfig, Language, PreferenceSetConfig, RowSource
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.config import MetricSpec
from mtcpo.metrics.registry import metric_kind, metric_name
from mtcpo.models.config import DType, EngineName, LoraConfig, Quantization
from mtcpo.training.losses import LossConfig
from mtcpo.translation.config import TranslateConfig, require_one_output, with_comet_for_mbr


class DevConfig(CorpusConfig):
    """A dev set, translated and scored at every evaluation as by `mtcpo evaluate`, to choose the best checkpoint.

    The corpus needs references. The metrics are logged as eval_bleu, eval_chrf, ...; unless train.args says otherwise,
    the first of them chooses the checkpoint that is kept.
    """

    metrics: tuple[MetricSpec, ...] = Field(("chrf", "bleu"), min_length=1)
    comet: CometConfig = CometConfig()
    decoding: TranslateConfig = TranslateConfig()
    engine: EngineName = "auto"
    """What translates; auto: transformers, because another engine would convert the model at every evaluation."""
    samples: int = Field(3, ge=0)
    """Translations logged at every evaluation, spread evenly over the set."""

    @model_validator(mode="before")
    @classmethod
    def _share_comet(cls, values: Any) -> Any:
        return with_comet_for_mbr(values)

    @model_validator(mode="after")
    def _can_be_scored(self) -> DevConfig:
        if self.src_lang is None or self.tgt_lang is None:
            raise ValueError("a dev set needs src_lang and tgt_lang")
        if self.engine == "vllm":
            raise ValueError("engine: vllm cannot run a model in training; choose transformers or ctranslate2")
        with as_value_error():
            require_one_output(self.decoding, "a dev set")
            names = [metric_name(spec) for spec in self.metrics if metric_kind(spec)]
        if len(set(names)) < len(names):
            raise ValueError("metrics: a metric is named twice; name it once")
        return self


class EvalConfig(Config):
    """Held-out pairs; loss, rewards, reward accuracy and margins on them are logged as eval_*."""

    prefs: RowSource
    src_lang: Language | None = None
    tgt_lang: Language | None = None
    """Language of triplets that do not name it."""

    @property
    def corpus(self) -> PreferenceSetConfig:
        """Where the pairs are."""
        # If the source is custom code, it was allowed when this section was read.
        values = {"source": self.prefs, "src_lang": self.src_lang, "tgt_lang": self.tgt_lang}
        return load_section(PreferenceSetConfig, values, "train.eval", allow_code=True)


class TrainConfig(LossConfig):
    """One training stage: the loss and its parameters, batches, limits, and any training argument of transformers."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a batch, padding included; per_device_train_batch_size still limits its pairs."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["model"] = 0.0
    """Default 0: chosen and rejected should differ only in their text. "model": as in the model's config."""
    max_source_tokens: int | None = Field(default=None, ge=1)
    max_target_tokens: int | None = Field(default=None, ge=1)
    """Longer examples are dropped and counted. Default: the model's limit."""
    dtype: DType = "auto"
    """Precision of the weights. auto: float32 for full training (bf16 arithmetic on a GPU), the GPU's best for LoRA."""
    lora: LoraConfig | None = None
    eval: EvalConfig | None = None
    dev: DevConfig | None = None
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations in a row without a better train.args.metric_for_best_model."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers.Seq2SeqTrainingArguments."""

    @property
    def quantization(self) -> Quantization | None:
        """How the weights are quantized on loading."""
        return self.lora.quantization if self.lora else None


def with_trial_values(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """Return the settings for a trial of a search; parameters of the loss are removed from `values`.

    Raises:
        UserError: a value that is invalid for the loss.
    """
    loss_values = {name: values.pop(name) for name in LossConfig.model_fields if name in values}
    # Custom code in the settings was allowed when they were read.
    return load_section(TrainConfig, config.model_dump() | loss_values, "hp_space", allow_code=True)
