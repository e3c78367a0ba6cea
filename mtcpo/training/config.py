"""The settings of training, apart from its code: a recipe is read and checked without waiting for torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from mtcpo.core.config import Config, as_value_error, load_section
from mtcpo.data.corpora import CorpusConfig, CorpusSource, Language
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.registry import MetricSpec, metric_kind, metric_name
from mtcpo.models.config import DType, LoraConfig, Quantization
from mtcpo.translation.config import TranslateConfig

LossName = Literal["sft", "sigmoid", "hinge", "ipo", "simpo", "alphapo", "arpo"]
Number = Annotated[float, Field(allow_inf_nan=False)]

ALPHAPO_ALPHA = 0.25
"""Of the AlphaPO paper's runs with Mistral and Llama 3 (arXiv 2501.03884, table 3)."""

PAIRWISE = ("sigmoid", "hinge", "ipo", "simpo", "alphapo", "arpo")
USED_BY: dict[str, tuple[str, ...]] = {
    "beta": PAIRWISE,
    "label_smoothing": ("sigmoid", "simpo", "alphapo", "arpo"),
    "simpo_gamma": ("simpo", "alphapo"),
    "alpha": PAIRWISE,
    "arpo_eta": ("arpo",),
    "arpo_kappa": ("arpo",),
    "cpo_alpha": PAIRWISE,
}
"""Which losses a parameter has a meaning for; parameters of all losses are not listed."""


class LossConfig(Config):
    """Which loss, and its parameters. `sft` has no preference term: the NLL of the chosen (or only) target.

    The formulas are in losses.py. A parameter that the loss does not have is refused unless it has its default.
    """

    loss: LossName = "sigmoid"
    beta: Number = Field(default=0.1, gt=0)
    """The scale of rewards; for ipo 1 / (2 beta) is the margin aimed at."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """sigmoid, simpo, alphapo, arpo: the probability that the preference is the wrong way round."""
    simpo_gamma: Number = Field(default=0.5, ge=0)
    """simpo, alphapo: the target margin, after beta."""
    alpha: Number = 0.0
    """The shape of rewards, with any preference loss: (1 - p^-alpha) / alpha; 0: log p. Default of alphapo: 0.25."""
    arpo_eta: Number = Field(default=0.9, gt=0)
    arpo_kappa: Number = Field(default=0.4, ge=0)
    """arpo rejects at the rate tau = clamp(eta e^(kappa |m_w - m_l|) - 1, 0, 1); the defaults of X-ALMA's code."""
    cpo_alpha: Number = Field(default=1.0, ge=0)
    """Weight of the NLL of the chosen target; simpo with cpo_alpha > 0 is CPO-SimPO."""
    nll_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of the NLL. A model that was trained with it is sharpened by a plain NLL; 0.1 is usual in MT."""
    nll_normalization: Literal["token", "sentence"] = "token"
    """NLL as a mean over tokens (as published code has it) or summed per sentence (as the CPO paper writes it)."""
    output_router_logits: bool | None = None
    """Mixtures of experts: add the loss that balances their load. Default: what the model's config says."""
    router_aux_loss_coef: Annotated[Number, Field(ge=0)] | None = None
    """Weight of that loss; a weight switches it on. Default: the model's own."""

    @field_validator("loss", mode="before")
    @classmethod
    def _known_loss(cls, name: Any) -> Any:
        if name not in get_args(LossName):
            raise ValueError(f"choose from {', '.join(get_args(LossName))}; that of the CPO paper is sigmoid")
        return name

    @model_validator(mode="before")
    @classmethod
    def _alphapo_has_alpha(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("loss") == "alphapo":
            return {"alpha": ALPHAPO_ALPHA} | data
        return data

    @model_validator(mode="after")
    def _parameters_have_a_meaning(self) -> LossConfig:
        for name, losses in USED_BY.items():
            value = getattr(self, name)
            if self.loss not in losses and value != LossConfig.model_fields[name].default:
                raise ValueError(
                    f"{name} = {value:g} has no meaning for the loss {self.loss!r}, only for {', '.join(losses)}; "
                    "leave it out"
                )
        if self.output_router_logits is False and self.router_aux_loss_coef:
            raise ValueError("router_aux_loss_coef without output_router_logits has no effect; leave one of them out")
        return self


class DevConfig(CorpusConfig):
    """A dev set, translated at every evaluation with the code of `mtcpo evaluate`; the best checkpoint is chosen on it.

    The corpus needs references. The metrics are logged as eval_bleu, eval_chrf, ...; unless train.args says otherwise,
    the first of them chooses the checkpoint that is kept.
    """

    metrics: tuple[MetricSpec, ...] = Field(("chrf", "bleu"), min_length=1)
    comet: CometConfig = CometConfig()
    decoding: TranslateConfig = TranslateConfig()
    samples: int = Field(3, ge=0)
    """Translations logged at every evaluation, spread evenly over the set."""

    @model_validator(mode="after")
    def _can_be_scored(self) -> DevConfig:
        if self.src_lang is None or self.tgt_lang is None:
            raise ValueError("a dev set needs src_lang and tgt_lang")
        if self.decoding.num_candidates != 1:
            raise ValueError("decoding.num_candidates: a dev set is scored by one translation of each source")
        with as_value_error():
            names = [metric_name(spec) for spec in self.metrics if metric_kind(spec)]
        if len(set(names)) < len(names):
            raise ValueError("metrics: one of them is named twice")
        return self


class EvalConfig(Config):
    """Pairs that training does not see; loss, rewards, accuracies and margins on them are logged as eval_*."""

    prefs: CorpusSource
    src_lang: Language | None = None
    tgt_lang: Language | None = None
    """Languages of triplets that do not say theirs."""

    @property
    def corpus(self) -> CorpusConfig:
        """Where the pairs are."""
        # It was allowed, if it is code, when it was read.
        values = {"source": self.prefs, "src_lang": self.src_lang, "tgt_lang": self.tgt_lang}
        return load_section(CorpusConfig, values, "train.eval", allow_code=True)


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

    @property
    def quantization(self) -> Quantization | None:
        """Of the weights as they are loaded."""
        return self.lora.quantization if self.lora else None
