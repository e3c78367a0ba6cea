"""Choosing the pair of a segment that is worth training on: pure functions, every loss of a segment with its reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from pydantic import Field, field_validator, model_validator

from mtcpo.config import Config
from mtcpo.errors import choose
from mtcpo.formats import HUMAN, REFERENCE_SYSTEM
from mtcpo.metrics import METRICS, MetricSpec, metric_name
from mtcpo.records import Candidate, Segment, Triplet

# Metrics that cancel each other out leave 1e-17 or so: a tie, and no preference.
ROUNDING = 1e-9


class SelectionConfig(Config):
    """How pairs are chosen.

    metrics: specs; of several the mean counts, as they are (`combine = "mean"`, for metrics of one scale) or after
    they are standardised over the candidates of the source (`zscore`). min_margin: chosen minus rejected in that
    value; human verdicts are exempt. include_reference: the references are candidates too; by a metric that compares
    with references they score perfectly, 100 for BLEU and chrF.

    Lengths are in characters. max_length_difference: |chosen - rejected| / the longer of them; 0.1 keeps pairs within
    10 %. max_source_length_ratio: candidates that many times longer or shorter than the source are left out.
    balance_length: drop the pairs of the most one-sided lengths until chosen is as long as rejected on average
    (geometric mean). Preference training copies a length bias of its pairs into the output.
    """

    metrics: tuple[MetricSpec, ...] = Field(min_length=1)
    select: str = "best-worst"
    combine: str = "mean"
    min_margin: float = Field(0.0, ge=0)
    include_reference: bool = False
    max_length_difference: float | None = Field(None, ge=0, lt=1)
    max_source_length_ratio: float | None = Field(None, gt=1)
    drop_copies: bool = True
    deduplicate: bool = True
    balance_length: bool = False

    @field_validator("select")
    @classmethod
    def _known_selector(cls, name: str) -> str:
        return _one_of("selection", name, SELECTORS)

    @field_validator("combine")
    @classmethod
    def _known_combination(cls, name: str) -> str:
        return _one_of("combination", name, COMBINATIONS)

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        check_scales(self.metrics, self.combine)
        return self


def _one_of(kind: str, name: str, table: Mapping[str, object]) -> str:
    if name not in table:
        raise ValueError(str(choose(kind, name, table)))
    return name


@dataclass(frozen=True, slots=True)
class Choice:
    """What became of a segment: its triplet, or the reason why there is none.

    candidates and values: those that the choice was made from, with the value that it was made by.
    removed: candidates left out before, by reason.
    """

    triplet: Triplet | None
    reason: str = ""
    candidates: tuple[Candidate, ...] = ()
    values: tuple[float, ...] = ()
    removed: Mapping[str, int] = field(default_factory=dict)


def mean(scores: Sequence[Sequence[float]]) -> list[float]:
    """Return each candidate's mean over the metrics. scores[metric][candidate]."""
    return [math.fsum(column) / len(scores) for column in zip(*scores, strict=True)]


def zscore(scores: Sequence[Sequence[float]]) -> list[float]:
    """Return each candidate's mean of scores standardised over the candidates: (x - mean) / standard deviation."""
    return mean([_standardised(row) for row in scores])


def _standardised(row: Sequence[float]) -> list[float]:
    centre = math.fsum(row) / len(row)
    deviation = math.sqrt(math.fsum((x - centre) ** 2 for x in row) / len(row))
    # All scores equal, up to rounding of their mean: the metric has no opinion.
    return [(x - centre) / deviation if deviation > 1e-12 * max(1.0, abs(centre)) else 0.0 for x in row]


def best_worst(values: Sequence[float]) -> tuple[int, int]:
    """Return the indices of the best and the worst value; the first of equals."""
    return values.index(max(values)), values.index(min(values))


COMBINATIONS: dict[str, Callable[[Sequence[Sequence[float]]], list[float]]] = {"mean": mean, "zscore": zscore}
SELECTORS: dict[str, Callable[[Sequence[float]], tuple[int, int]]] = {"best-worst": best_worst}


def check_scales(metrics: Sequence[str], combine: str) -> None:
    """Refuse the plain mean of metrics on different scales, which the one with the larger numbers would decide.

    Raises:
        ValueError: with the way out, `combine = "zscore"`.
    """
    scales = {name: METRICS[name].scale if name in METRICS else "unknown" for name in map(metric_name, metrics)}
    if combine == "mean" and len(set(scales.values())) > 1:
        listed = ", ".join(f"{name} ({scale})" for name, scale in scales.items())
        raise ValueError(f"the mean of metrics on different scales means little: {listed}; set combine to zscore")


def add_references(segment: Segment) -> Segment:
    """Return the segment with its references as candidates: `reference`, then `reference-2` and so on."""
    taken = {candidate.system for candidate in segment.candidates}
    names = [REFERENCE_SYSTEM, *(f"{REFERENCE_SYSTEM}-{n}" for n in range(2, len(segment.references) + 1))]
    new = [Candidate(name, text) for name, text in zip(names, segment.references, strict=False) if name not in taken]
    return replace(segment, candidates=(*segment.candidates, *new))


def choose_pair(segment: Segment, config: SelectionConfig) -> Choice:
    """Choose the pair of a scored segment, or say why it has none. A human verdict wins over the metrics."""
    if not segment.source.strip():
        return Choice(None, "empty_source")
    judged = [candidate for candidate in segment.candidates if HUMAN in candidate.scores]
    pool, removed = _usable(judged or segment.candidates, segment, config)
    if len(pool) < 2:
        reason = next(iter(removed), "one_candidate" if pool else "no_candidates")
        return Choice(None, reason, removed=removed)
    values = _values(pool, [HUMAN] if judged else [metric_name(spec) for spec in config.metrics], config)
    best, worst = SELECTORS[config.select](values)
    chosen, rejected, margin = pool[best], pool[worst], values[best] - values[worst]
    reason = _objection(chosen, rejected, margin, 0.0 if judged else config.min_margin, config)
    triplet = None if reason else _triplet(segment, chosen, rejected, margin)
    return Choice(triplet, reason, tuple(pool), tuple(values), removed)


def _usable(
    candidates: Sequence[Candidate], segment: Segment, config: SelectionConfig
) -> tuple[list[Candidate], Counter[str]]:
    """Return the candidates that may be chosen or rejected, and how many were left out for which reason."""
    removed: Counter[str] = Counter()
    seen: set[str] = set()
    pool = []
    for candidate in candidates:
        text = candidate.text.strip()
        ratio = config.max_source_length_ratio
        if not text:
            removed["empty_text"] += 1
        elif config.drop_copies and text == segment.source.strip():
            removed["copy_of_source"] += 1
        elif ratio is not None and not 1 / ratio <= len(text) / len(segment.source.strip()) <= ratio:
            removed["source_length_ratio"] += 1
        elif config.deduplicate and text in seen:
            removed["same_text"] += 1
        else:
            seen.add(text)
            pool.append(candidate)
    return pool, removed


def _values(pool: Sequence[Candidate], names: Sequence[str], config: SelectionConfig) -> list[float]:
    return COMBINATIONS[config.combine if names != [HUMAN] else "mean"](
        [[candidate.scores[name] for candidate in pool] for name in names]
    )


def _objection(
    chosen: Candidate, rejected: Candidate, margin: float, min_margin: float, config: SelectionConfig
) -> str:
    """Return why the pair is not to be trained on, or ""."""
    lengths = len(chosen.text.strip()), len(rejected.text.strip())
    if margin <= ROUNDING or chosen.text.strip() == rejected.text.strip():
        return "tie"
    if margin < min_margin:
        return "small_margin"
    limit = config.max_length_difference
    # A hair of tolerance: at 0.1, 9 against 10 characters are within it.
    if limit is not None and abs(lengths[0] - lengths[1]) > limit * max(lengths) + 1e-9:
        return "length_difference"
    return ""


def _triplet(segment: Segment, chosen: Candidate, rejected: Candidate, margin: float) -> Triplet:
    return Triplet(
        id=segment.id,
        src_lang=segment.src_lang,
        tgt_lang=segment.tgt_lang,
        source=segment.source,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_system=chosen.system,
        rejected_system=rejected.system,
        chosen_scores=chosen.scores,
        rejected_scores=rejected.scores,
        margin=margin,
    )


def length_log_ratio(triplet: Triplet) -> float:
    """Return ln(characters of chosen / characters of rejected); 0 means equal length."""
    return math.log(len(triplet.chosen.strip()) / len(triplet.rejected.strip()))


def balanced(log_ratios: Sequence[float]) -> list[bool]:
    """Return which pairs to keep so that the mean of their log length ratios is as near to zero as can be.

    The most extreme ratios of the heavier side go first, so that few pairs go; among equals the first to come.
    """
    total = math.fsum(log_ratios)
    sign = math.copysign(1.0, total)
    excess = abs(total)
    keep = [True] * len(log_ratios)
    for index in sorted(range(len(log_ratios)), key=lambda i: -sign * log_ratios[i]):
        ratio = sign * log_ratios[index]
        if 0 < ratio < 2 * excess:
            keep[index] = False
            excess -= ratio
    return keep
