"""Choosing the pairs of a segment that are worth training on: pure functions, every loss with its reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from mtcpo.core.errors import UserError, choose
from mtcpo.data.records import HUMAN, REFERENCE_SYSTEM, Candidate, Segment, Triplet, is_reference
from mtcpo.metrics.config import MetricSpec
from mtcpo.metrics.registry import is_computed, metric_name
from mtcpo.preferences.combining import COMBINATIONS, Centre, centre_of, check_scales, combined
from mtcpo.preferences.filters import FilterConfig, Filters
from mtcpo.preferences.spill import Column

# Metrics that cancel each other out leave 1e-17 or so: a tie, and no preference.
ROUNDING = 1e-9

Pair = tuple[int, int]
"""Indices of chosen and rejected among the candidates of a pool."""


class SelectionConfig(FilterConfig):
    """How pairs are chosen.

    metrics: specs, or names of scores that the candidates have. combine: how several make one value, see
    COMBINATIONS; weights: of metrics by name, 1 where it says nothing. lower_is_better: those of the scores found in
    the input that are so; the metrics' own direction is known.
    select: see SELECTORS. min_margin: chosen minus rejected in the value; human verdicts are exempt.

    reference: what becomes of references, those among the candidates included. `never`: they take no part; `by-score`:
    they are candidates like others (by BLEU and chrF they score 100); `always`: a reference is chosen, and only
    systems' outputs are rejected (as in SPIN, arXiv 2401.01335), where the value does not say otherwise.

    max_per_language: triplets kept of a language pair, drawn by `seed`. balance_length: drop the pairs of the most
    one-sided lengths until chosen is as long as rejected on average (geometric mean). Preference training copies a
    length bias of its pairs into the output.
    """

    metrics: tuple[MetricSpec, ...] = Field(min_length=1)
    combine: str = "mean"
    weights: dict[str, float] = Field(default_factory=dict)
    lower_is_better: tuple[str, ...] = ()
    select: str = "best-worst"
    min_margin: float = Field(0.0, ge=0)
    reference: Literal["never", "by-score", "always"] = "never"
    max_per_language: int | None = Field(None, ge=1)
    balance_length: bool = False
    seed: int = 0

    @field_validator("select")
    @classmethod
    def _known_selector(cls, name: str) -> str:
        return _one_of("selection", name, SELECTORS)

    @field_validator("combine")
    @classmethod
    def _known_combination(cls, name: str) -> str:
        return _one_of("combination", name, COMBINATIONS)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [metric_name(spec) for spec in self.metrics]
        check_scales(self.metrics, self.combine)
        for key, given in (("weights", self.weights), ("lower_is_better", self.lower_is_better)):
            for name in given:
                if name not in names:
                    raise ValueError(f"{key}: {choose('metric', name, names)}")
        for spec in self.metrics:
            if metric_name(spec) in self.lower_is_better and is_computed(spec):
                raise ValueError(f"lower_is_better: the direction of {metric_name(spec)} is known; leave it out")
        if any(not weight > 0 for weight in self.weights.values()):
            raise ValueError("weights: each must be above 0; leave a metric without a say out of metrics")
        if self.weights and not COMBINATIONS[self.combine].takes_weights:
            raise ValueError(f"weights change nothing where combine is {self.combine!r}; leave them out")
        if self.select == "confidence" and self.reference != "never":
            raise ValueError("select 'confidence' needs log-probabilities, and a reference has none; use 'never'")
        return self


def _one_of(kind: str, name: str, table: Mapping[str, object]) -> str:
    if name not in table:
        raise ValueError(str(choose(kind, name, table)))
    return name


@dataclass(frozen=True, slots=True)
class Pool:
    """What a pair is chosen from: at least two candidates with their values; higher is better.

    reference: index of the candidate that must be the chosen one, where there is such a one.
    """

    segment_id: str
    candidates: tuple[Candidate, ...]
    values: tuple[float, ...]
    reference: int | None = None

    @property
    def best(self) -> int:
        """The index of the chosen one: the reference where it must be, else the best; the first of equals."""
        return self.values.index(max(self.values)) if self.reference is None else self.reference

    def others(self, chosen: int) -> list[int]:
        """Return the indices of all but one, in order."""
        return [index for index in range(len(self.values)) if index != chosen]


def best_worst(pool: Pool) -> list[Pair]:
    """Pair the best with the worst, as CPO does (arXiv 2401.08417)."""
    return [(pool.best, min(pool.others(pool.best), key=pool.values.__getitem__))]


def best_vs_rest(pool: Pool) -> list[Pair]:
    """Pair the best with each of the others."""
    return [(pool.best, index) for index in pool.others(pool.best)]


def all_pairs(pool: Pool) -> list[Pair]:
    """Pair each candidate with each worse one; `min_margin` is then the least gap of RS-DPO (arXiv 2402.10038)."""
    winners = range(len(pool.values)) if pool.reference is None else [pool.reference]
    pairs = [(a, b) for a in winners for b in pool.others(a)]
    return [(a, b) for a, b in pairs if pool.reference is not None or pool.values[a] - pool.values[b] > ROUNDING]


def mu_2sigma(pool: Pool) -> list[Pair]:
    """Pair the best with the one nearest to mean - 2 * deviation of the values (arXiv 2502.16825).

    The minimum is an outlier that gets worse the more candidates are sampled, and teaches less and less.
    """
    centre = centre_of(pool.values)
    target = centre.mean - 2 * centre.deviation
    return [(pool.best, min(pool.others(pool.best), key=lambda index: abs(pool.values[index] - target)))]


def confidence(pool: Pool) -> list[Pair]:
    """Take the pair that is clearest by value and that the model ranks most wrongly, after CRPO (arXiv 2501.13927).

    Its score is (z_w - z_l) - (c_w - c_l): values z and the model's log-probabilities c, each standardised over the
    candidates of the source, so that neither's scale decides. The standardising is ours.

    Raises:
        UserError: a candidate has no log-probability.
    """
    logprobs = [candidate.logprob for candidate in pool.candidates if candidate.logprob is not None]
    if len(logprobs) < len(pool.candidates):
        lacking = next(candidate.system for candidate in pool.candidates if candidate.logprob is None)
        raise UserError(
            f"segment {pool.segment_id}: {lacking} has no logprob, which select 'confidence' needs of every candidate: "
            "nats summed over tokens, by the model to be trained; mtcpo translate --logprobs writes it"
        )
    standing = centre_of(pool.values).standardised(pool.values)
    certainty = centre_of(logprobs).standardised(logprobs)
    gain = [z - c for z, c in zip(standing, certainty, strict=True)]
    pairs = all_pairs(pool)
    return [max(pairs, key=lambda pair: gain[pair[0]] - gain[pair[1]])] if pairs else []


SELECTORS: dict[str, Callable[[Pool], list[Pair]]] = {
    "best-worst": best_worst,
    "best-vs-rest": best_vs_rest,
    "all-pairs": all_pairs,
    "mu-2sigma": mu_2sigma,
    "confidence": confidence,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What became of a segment: its triplets, and why others, or all, are none.

    dropped: pairs that were proposed and not kept, by reason; a segment without a proposal counts as one.
    candidates and values: those that the choice was made from, with the value that it was made by.
    removed: candidates left out before, by reason.
    """

    triplets: tuple[Triplet, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    values: tuple[float, ...] = ()
    removed: Mapping[str, int] = field(default_factory=dict)


def add_references(segment: Segment) -> Segment:
    """Return the segment with its references as candidates: `reference`, then `reference-2` and so on."""
    taken = {candidate.system for candidate in segment.candidates}
    names = [REFERENCE_SYSTEM, *(f"{REFERENCE_SYSTEM}-{n}" for n in range(2, len(segment.references) + 1))]
    new = [Candidate(name, text) for name, text in zip(names, segment.references, strict=False) if name not in taken]
    return replace(segment, candidates=(*segment.candidates, *new))


class Chooser:
    """Chooses the pairs of scored segments by one configuration; what its filters need is loaded once.

    Raises:
        UserError: a package or a tokenizer that a filter needs is not there.
    """

    def __init__(self, config: SelectionConfig) -> None:
        self._config = config
        self._filters = Filters(config)

    def choose(self, segment: Segment, centres: Mapping[str, Centre] | None = None) -> Choice:
        """Choose the pairs of a segment, or say why it has none. A human verdict wins over the metrics.

        centres: of each metric over the set, where the configured combination needs them.
        """
        reason = self._filters.source_rejection(segment)
        if reason:
            return Choice(dropped={reason: 1})
        judged = [candidate for candidate in segment.candidates if HUMAN in candidate.scores]
        eligible, excluded = self._eligible(judged, segment)
        candidates, removed = self._filters.apply(eligible, segment)
        removed.update(excluded)
        if len(candidates) < 2:
            reason = next(iter(removed), "one_candidate" if candidates else "no_candidates")
            return Choice(dropped={reason: 1}, removed=removed)
        values = tuple(self._values(candidates, bool(judged), centres))
        if self._config.reference != "always" or judged:
            return self._pairs(segment, Pool(segment.id, tuple(candidates), values), removed, bool(judged))
        return self._pairs_of_reference(segment, candidates, values, removed)

    def _eligible(self, judged: Sequence[Candidate], segment: Segment) -> tuple[Sequence[Candidate], dict[str, int]]:
        """Return the candidates that take part, and how many references do not."""
        if judged or self._config.reference == "by-score":
            return judged or segment.candidates, {}
        # References first where they must win: of equal texts the first is kept.
        references = [candidate for candidate in segment.candidates if is_reference(candidate.system)]
        systems = [candidate for candidate in segment.candidates if not is_reference(candidate.system)]
        if self._config.reference == "always":
            return [*references, *systems], {}
        return systems, {"reference": len(references)} if references else {}

    def _values(self, pool: Sequence[Candidate], judged: bool, centres: Mapping[str, Centre] | None) -> list[float]:
        if judged:
            return [candidate.scores[HUMAN] for candidate in pool]
        config = self._config
        names = [metric_name(spec) for spec in config.metrics]
        signs = {name: -1.0 if name in config.lower_is_better else 1.0 for name in names}
        scores = {name: [signs[name] * candidate.scores[name] for candidate in pool] for name in names}
        turned = {name: Centre(signs[name] * one.mean, one.deviation) for name, one in (centres or {}).items()}
        return combined(scores, config.combine, config.weights, turned)

    def _pairs_of_reference(
        self, segment: Segment, candidates: Sequence[Candidate], values: Sequence[float], removed: Counter[str]
    ) -> Choice:
        """Choose with the best reference as the chosen one; the other references take no part."""
        ranked = [index for index, candidate in enumerate(candidates) if is_reference(candidate.system)]
        if not ranked:
            return Choice(dropped={"no_reference": 1}, removed=removed)
        best = max(ranked, key=values.__getitem__)
        kept = [index for index in range(len(candidates)) if index == best or index not in ranked]
        removed["reference"] += len(ranked) - 1
        if len(kept) < 2:
            return Choice(dropped={"one_candidate": 1}, removed=+removed)
        pool = Pool(
            segment.id, tuple(candidates[i] for i in kept), tuple(values[i] for i in kept), reference=kept.index(best)
        )
        return self._pairs(segment, pool, +removed, judged=False)

    def _pairs(self, segment: Segment, pool: Pool, removed: Counter[str], judged: bool) -> Choice:
        dropped: Counter[str] = Counter()
        triplets = []
        proposed = SELECTORS[self._config.select](pool)
        for best, worst in proposed:
            chosen, rejected, margin = (
                pool.candidates[best],
                pool.candidates[worst],
                pool.values[best] - pool.values[worst],
            )
            reason = self._rejection_reason(chosen, rejected, margin, judged)
            if reason:
                dropped[reason] += 1
            else:
                triplets.append(_triplet(segment, chosen, rejected, margin))
        if not proposed:
            dropped["tie"] += 1
        return Choice(tuple(triplets), dropped, pool.candidates, pool.values, removed)

    def _rejection_reason(self, chosen: Candidate, rejected: Candidate, margin: float, judged: bool) -> str:
        """Return why the pair is not to be trained on, or ""."""
        texts = chosen.text.strip(), rejected.text.strip()
        if margin < -ROUNDING:
            return "reference_not_better"
        if margin <= ROUNDING or texts[0] == texts[1]:
            return "tie"
        if margin < self._config.min_margin and not judged:
            return "small_margin"
        return self._filters.pair_rejection(*texts)


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


def unbalanced(log_ratios: Column) -> Iterator[int]:
    """Yield which pairs to drop so that the mean of the others' log length ratios is as near to zero as can be.

    The most extreme ratios of the heavier side go first, so that few pairs go; among equals the first to come.
    """
    total = math.fsum(log_ratios)
    excess = abs(total)
    for place, ratio in log_ratios.by_size(largest_first=total > 0):
        if 0 < math.copysign(1.0, total) * ratio < 2 * excess:
            yield place
            excess -= abs(ratio)
