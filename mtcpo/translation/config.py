"""Settings of `mtcpo translate`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mtcpo.core.config import Config, as_value_error
from mtcpo.core.errors import UserError
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.config import MetricSpec
from mtcpo.metrics.registry import metric_kind

MBR_DEFAULTS = {"sampling": "epsilon", "num_candidates": 16, "redraw": 0}
"""Defaults for minimum Bayes risk, which needs many different candidates; epsilon sampling: arXiv 2305.09860. A sample
counts as often as it was drawn."""

Sampling = Literal["beam", "diverse", "nucleus", "top-k", "epsilon"]

SAMPLED = ("nucleus", "top-k", "epsilon")
"""The kinds of `sampling` that draw random numbers."""


class SearchConfig(Config):
    """One search for candidates.

    sampling: beam search; diverse beam search with groups of one; nucleus, top-k or epsilon sampling.
    """

    num_candidates: int = Field(default=1, ge=1)
    sampling: Sampling = "beam"
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

    @model_validator(mode="after")
    def _beams_suffice(self) -> Self:
        # With `mix`, the number of candidates is a sum, and each of its searches is checked by itself.
        is_mixture = bool(getattr(self, "mix", ()))
        if self.sampling == "beam" and self.num_beams < self.num_candidates and not is_mixture:
            raise ValueError(
                f"beam search with {self.num_beams} beams cannot give {self.num_candidates} candidates; "
                "raise num_beams or choose sampling = 'epsilon'"
            )
        return self


class TranslateConfig(SearchConfig):
    """How candidates are found: one search, or several (`mix`), and what is done with their outputs."""

    mix: tuple[SearchConfig, ...] = ()
    """Several searches, whose candidates are put together. A key that is not given in an entry is that of the table
    around it; only `num_candidates` is not, which is then the sum."""
    redraw: int = Field(default=1, ge=0)
    """How many times samples that repeat another candidate of their source are drawn again. Two equal candidates make
    no pair; MBR, for which repeated samples count as often as they were drawn, never draws again."""
    max_new_tokens: int = Field(default=256, ge=1)
    batch_size: int = Field(default=32, ge=1)
    """Sources per batch, at most; with n candidates or beams, a batch has n times as many rows."""
    batch_tokens: int = Field(default=16384, ge=1)
    """Tokens of a batch's sources, at most: padding included, times candidates or beams."""
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
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if not values.get("mbr"):
            return _with_mix(values)
        defaults = dict(MBR_DEFAULTS)
        if values.get("mix"):
            del defaults["num_candidates"]
        return _with_mix(defaults | values)

    @model_validator(mode="after")
    @as_value_error()
    def _mbr_can_choose(self) -> Self:
        if self.mbr is not None:
            metric_kind(self.mbr)
            if self.num_candidates == 1:
                raise ValueError("mbr chooses among candidates, and num_candidates = 1 leaves no choice; try 16")
            if self.redraw:
                raise ValueError("redraw: mbr counts a sample as often as it was drawn; leave redraw at 0 with mbr")
        return self

    @model_validator(mode="after")
    def _mix_adds_up(self) -> Self:
        total = sum(search.num_candidates for search in self.mix)
        if self.mix and self.num_candidates != total:
            raise ValueError(
                f"num_candidates is {self.num_candidates}, but the searches of `mix` give {total} together; "
                "leave num_candidates out beside `mix`"
            )
        return self

    def searches(self) -> list[TranslateConfig]:
        """Return the settings of each search: those of `mix`, or of the only one."""
        if not self.mix:
            return [self]
        return [self.model_copy(update=search.model_dump() | {"mix": ()}) for search in self.mix]

    def describe_search(self) -> str:
        """Return the search in words, for reports: "beam search with 4 beams", "epsilon sampling"."""
        if self.mix:
            return self.summary()
        kinds = {"beam": f"beam search with {self.num_beams} beams", "diverse": "diverse beam search"}
        return kinds.get(self.sampling, f"{self.sampling} sampling")

    def summary(self) -> str:
        """Return the kinds of searches in a few words: "beam", or "4 beam + 4 epsilon"."""
        if not self.mix:
            return self.sampling
        return " + ".join(f"{search.num_candidates} {search.sampling}" for search in self.mix)


def require_one_output(config: TranslateConfig, scored: str) -> None:
    """Refuse settings that leave several candidates of a source where one is scored. scored: what is, for the message.

    Raises:
        UserError: several candidates, and no `mbr` to choose one of them.
    """
    if config.outputs != 1:
        raise UserError(
            f"decoding.num_candidates: {scored} is scored with one translation of each source; leave it at 1, or "
            "choose one of several by decoding.mbr"
        )


def with_comet_for_mbr(values: Any) -> Any:
    """Return the values of a section with `comet` and `decoding`, where the former is the latter's default too.

    For COMET as the utility of `mbr`: a user sets only once where COMET runs.
    """
    if not isinstance(values, dict) or "comet" not in values or not isinstance(values.get("decoding"), dict):
        return values
    decoding = values["decoding"]
    return values | {"decoding": {"comet": values["comet"], **decoding}} if decoding.get("mbr") else values


def _with_mix(values: dict[str, Any]) -> dict[str, Any]:
    """Give the entries of `mix` the keys of the table around them, and the table the sum of their candidates."""
    if not isinstance(values.get("mix"), (list, tuple)) or not values["mix"]:
        return values
    shared = {key: values[key] for key in SearchConfig.model_fields if key in values and key != "num_candidates"}
    mix = []
    for entry in values["mix"]:
        given = entry.model_dump() if isinstance(entry, SearchConfig) else entry
        mix.append(shared | given if isinstance(given, dict) else given)
    completed = values | {"mix": mix}
    counts = [entry.get("num_candidates", 1) for entry in mix if isinstance(entry, dict)]
    # Entries that are no tables, and counts that are no numbers, are refused afterwards by their own types.
    are_numbers = len(counts) == len(mix) and all(isinstance(count, int) for count in counts)
    if are_numbers and "num_candidates" not in values:
        completed["num_candidates"] = sum(counts)
    return completed
