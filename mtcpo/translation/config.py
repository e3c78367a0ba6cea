"""Settings of `mtcpo translate`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mtcpo.core.config import Config, as_value_error
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.config import MetricSpec
from mtcpo.metrics.registry import metric_kind

MBR_DEFAULTS = {"sampling": "epsilon", "num_candidates": 16}
"""Defaults for minimum Bayes risk, which needs many different candidates; epsilon sampling: arXiv 2305.09860."""


class TranslateConfig(Config):
    """How to search or sample.

    sampling: beam search; diverse beam search with groups of one; nucleus, top-k or epsilon sampling.
    """

    num_candidates: int = Field(default=1, ge=1)
    sampling: Literal["beam", "diverse", "nucleus", "top-k", "epsilon"] = "beam"
    num_beams: int = Field(default=4, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    """For nucleus sampling (arXiv 1904.09751)."""
    top_k: int = Field(default=50, ge=1)
    """For top-k sampling: only the k likeliest tokens are sampled (arXiv 1805.04833)."""
    epsilon: float = Field(default=0.02, gt=0, lt=1)
    """Tokens below this probability are never sampled (arXiv 2210.15191); 0.02 is the usual value for MBR in MT."""
    diversity_penalty: float = Field(default=0.5, gt=0)
    """For diverse beam search: nats for each earlier candidate with the same token at the same step."""
    length_penalty: float = 1.0
    max_new_tokens: int = Field(default=256, ge=1)
    batch_size: int = Field(default=32, ge=1)
    """Sources per batch; with n candidates, a batch has n times as many rows."""
    logprobs: bool = False
    """Add the model's log-probability to every candidate, including those in the input, as computed in training: nats,
    summed over tokens. `select = "confidence"` needs it."""
    mbr: MetricSpec | None = None
    """Return one translation: the candidate with the highest mean score by this metric with every candidate as
    reference (minimum Bayes risk, arXiv 2108.04718), the first of several."""
    comet: CometConfig = CometConfig()
    """How COMET is run for `mbr`; in [evaluate] and in a dev set, their own `comet` is the default."""
    seed: int = 0
    retry: int = Field(default=0, ge=0)
    """How often to translate again what is degenerate (empty, a source copy, off-target, repetitive, or far out of the
    length ratio of the others), at a higher temperature or with more beams."""

    @property
    def outputs(self) -> int:
        """Candidates per source in the output: with `mbr`, only the best of those that were generated."""
        return 1 if self.mbr else self.num_candidates

    @model_validator(mode="before")
    @classmethod
    def _sample_for_mbr(cls, values: Any) -> Any:
        return MBR_DEFAULTS | values if isinstance(values, dict) and values.get("mbr") else values

    @model_validator(mode="after")
    @as_value_error()
    def _mbr_can_choose(self) -> TranslateConfig:
        if self.mbr is not None:
            metric_kind(self.mbr)
            if self.num_candidates == 1:
                raise ValueError("mbr chooses among candidates, and num_candidates = 1 leaves no choice; try 16")
        return self

    @model_validator(mode="after")
    def _beams_suffice(self) -> TranslateConfig:
        if self.sampling == "beam" and self.num_beams < self.num_candidates:
            raise ValueError(
                f"beam search with {self.num_beams} beams cannot give {self.num_candidates} candidates; "
                "raise num_beams or choose sampling = 'epsilon'"
            )
        return self


def with_comet_for_mbr(values: Any) -> Any:
    """Return the values of a section with `comet` and `decoding`, where the former is the latter's default too.

    For COMET as the utility of `mbr`: a user sets only once where COMET runs.
    """
    if not isinstance(values, dict) or "comet" not in values or not isinstance(values.get("decoding"), dict):
        return values
    decoding = values["decoding"]
    return values | {"decoding": {"comet": values["comet"], **decoding}} if decoding.get("mbr") else values
