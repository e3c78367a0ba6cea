"""Settings of `mtcpo translate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mtcpo.core.config import Config


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
    seed: int = 0
    retry: int = Field(default=0, ge=0)
    """How often to translate again what is degenerate (empty, a source copy, off-target, repetitive, or far out of the
    length ratio of the others), at a higher temperature or with more beams."""

    @model_validator(mode="after")
    def _beams_suffice(self) -> TranslateConfig:
        if self.sampling == "beam" and self.num_beams < self.num_candidates:
            raise ValueError(
                f"beam search with {self.num_beams} beams cannot give {self.num_candidates} candidates; "
                "raise num_beams or choose sampling = 'epsilon'"
            )
        return self
