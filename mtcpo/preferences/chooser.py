"""Choose the pairs of a scored segment: filter its candidates, compute their values, select pairs, filter those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from mtcpo.core.errors import choose
from mtcpo.data.records import HUMAN, REFERENCE_SYSTEM, Candidate, Segment, Triplet, is_reference
from mtcpo.metrics.config import MetricSpec
from mtcpo.metrics.registry import candidate_kind, is_computed, metric_name
from mtcpo.preferences.combining import COMBINATIONS, Moments, combine_scores
from mtcpo.preferences.filters import FilterConfig, Filters
from mtcpo.preferences.selections import ROUNDING, Pool, needs_logprobs
from mtcpo.preferences.user_selection import Select, load_selection


class SelectionConfig(FilterConfig):
    """How pairs are chosen.

    metrics: specs of metrics, or names of scores that the candidates have. combine: how they become one value, a name
    of COMBINATIONS; weights: metric name -> weight, default 1. lower_is_better: names of scores in the input for which
    lower is better; the direction of mtcpo's metrics is known.
    select: a name of SELECTIONS, `python:module:function`, or a callable. min_margin: the smallest difference between
    the values of chosen and rejected; human verdicts are exempt.

    reference: how references are used, also those among the candidates. `never`: they take no part; `by-score`:
    they compete like other candidates (by BLEU and chrF they score 100); `always`: a reference is chosen, and only
    systems' outputs are rejected (as in SPIN, arXiv 2401.01335), unless the value says otherwise.

    max_per_language: the most triplets kept of a language pair, drawn by `seed`. balance_length: drop the pairs with
    the most one-sided lengths until chosen is as long as rejected on average (geometric mean): preference
    training copies a length bias of its pairs into the model's output.
    """

    metrics: tuple[MetricSpec, ...] = Field(min_length=1)
    combine: str = "mean"
    weights: dict[str, float] = Field(default_factory=dict)
    lower_is_better: tuple[str, ...] = ()
    select: Select = "best-worst"
    min_margin: float = Field(0.0, ge=0)
    reference: Literal["never", "by-score", "always"] = "never"
    max_per_language: int | None = Field(None, ge=1)
    balance_length: bool = False
    seed: int = 0

    @field_validator("combine")
    @classmethod
    def _check_combination(cls, name: str) -> str:
        if name not in COMBINATIONS:
            raise ValueError(str(choose("combination", name, COMBINATIONS)))
        return name

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        names = [metric_name(spec) for spec in self.metrics]
        check_scales(self.metrics, self.combine)
        for key, named in (("weights", self.weights), ("lower_is_better", self.lower_is_better)):
            for name in named:
                if name not in names:
                    raise ValueError(f"{key}: {choose('metric', name, names)}")
        for spec in self.metrics:
            if metric_name(spec) in self.lower_is_better and is_computed(spec):
                raise ValueError(f"lower_is_better: the direction of {metric_name(spec)} is known; leave it out")
        # Not `weight <= 0`, which is false for NaN.
        if any(not weight > 0 for weight in self.weights.values()):
            raise ValueError("weights: each must be above 0; to ignore a metric, leave it out of metrics")
        if self.weights and not COMBINATIONS[self.combine].takes_weights:
            raise ValueError(f"weights have no effect when combine is {self.combine!r}; leave them out")
        if needs_logprobs(self.select) and self.reference != "never":
            raise ValueError(
                f"select {self.select!r} needs log-probabilities, and a reference has none; set reference to 'never'"
            )
        return self


def check_scales(metrics: Sequence[str], combine: str) -> None:
    """Refuse to average metrics of different scales: the one with the larger numbers would decide alone.

    Raises:
        ValueError: the metrics have different scales; the message names the way out.
    """
    scales = {}
    for spec in metrics:
        scales[metric_name(spec)] = candidate_kind(spec).scale if is_computed(spec) else "unknown"
    if COMBINATIONS[combine].one_scale and len(set(scales.values())) > 1:
        listed = ", ".join(f"{name} ({scale})" for name, scale in scales.items())
        raise ValueError(f"the {combine} of metrics on different scales means little: {listed}; set combine to zscore")


@dataclass(frozen=True, slots=True)
class Choice:
    """The result for a segment: its triplets, and why other pairs, or all, were dropped.

    dropped: reason -> count of proposed pairs that were not kept; a segment without any counts as one.
    candidates, values: the pool, (K,), and the values by which it was ordered, (K,). removed: reason -> count of
    candidates that were filtered out before.
    """

    triplets: tuple[Triplet, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    values: tuple[float, ...] = ()
    removed: Mapping[str, int] = field(default_factory=dict)


def add_references(segment: Segment) -> Segment:
    """Return the segment with its references as candidates: `reference`, then `reference-2` and so on."""
    taken = {candidate.system for candidate in segment.candidates}
    added = []
    for number, text in enumerate(segment.references, start=1):
        name = REFERENCE_SYSTEM if number == 1 else f"{REFERENCE_SYSTEM}-{number}"
        # Segments that were scored by an earlier run already have them.
        if name not in taken:
            added.append(Candidate(name, text))
    return replace(segment, candidates=(*segment.candidates, *added))


class Chooser:
    """Chooses the pairs of scored segments. What its filters need (a tokenizer, say) is loaded once, here.

    Raises:
        UserError: a package or tokenizer that a filter needs, or a custom selection, cannot be loaded.
    """

    def __init__(self, config: SelectionConfig) -> None:
        self._config = config
        self._filters = Filters(config)
        self._select = load_selection(config.select)

    def choose(self, segment: Segment, set_moments: Mapping[str, Moments] | None = None) -> Choice:
        """Choose the pairs of a segment, or say why it has none. Human verdicts override the metrics.

        set_moments: metric -> moments over the whole set, for a combination that needs them.
        """
        reason = self._filters.source_rejection(segment)
        if reason:
            return Choice(dropped={reason: 1})
        # If people compared candidates, only those take part: a verdict and a metric are on different scales.
        judged = [candidate for candidate in segment.candidates if HUMAN in candidate.scores]
        eligible, excluded = self._eligible(judged, segment)
        candidates, removed = self._filters.apply(eligible, segment)
        removed.update(excluded)
        if len(candidates) < 2:
            # The segment counts under the first reason why candidates were removed, if any were.
            reason = next(iter(removed), "one_candidate" if candidates else "no_candidates")
            return Choice(dropped={reason: 1}, removed=removed)
        values = tuple(self._values(candidates, bool(judged), set_moments))
        pool = Pool(segment, tuple(candidates), values)
        if self._config.reference != "always" or judged:
            return self._pairs(pool, removed, bool(judged))
        return self._pairs_of_reference(pool, removed)

    def _eligible(self, judged: Sequence[Candidate], segment: Segment) -> tuple[Sequence[Candidate], dict[str, int]]:
        """Return the candidates that take part, and reason -> count of references that do not."""
        if judged or self._config.reference == "by-score":
            return judged or segment.candidates, {}
        references = [candidate for candidate in segment.candidates if is_reference(candidate.system)]
        systems = [candidate for candidate in segment.candidates if not is_reference(candidate.system)]
        if self._config.reference == "always":
            # References first: of equal texts the filters keep the first, and a reference must be chosen.
            return [*references, *systems], {}
        return systems, {"reference": len(references)} if references else {}

    def _values(
        self, candidates: Sequence[Candidate], judged: bool, set_moments: Mapping[str, Moments] | None
    ) -> list[float]:
        """Return the value of each candidate, higher is better. Shape (K,)."""
        if judged:
            return [candidate.scores[HUMAN] for candidate in candidates]
        config, scores, moments = self._config, {}, dict(set_moments or {})
        for name in map(metric_name, config.metrics):
            sign = -1.0 if name in config.lower_is_better else 1.0
            scores[name] = [sign * candidate.scores[name] for candidate in candidates]
            if name in moments:
                # The set's mean was computed from the scores as stored.
                moments[name] = replace(moments[name], mean=sign * moments[name].mean)
        return combine_scores(scores, config.combine, config.weights, moments)

    def _pairs_of_reference(self, pool: Pool, removed: Counter[str]) -> Choice:
        """Choose pairs whose chosen is the best reference; the other references take no part."""
        references = [index for index, candidate in enumerate(pool.candidates) if is_reference(candidate.system)]
        if not references:
            return Choice(dropped={"no_reference": 1}, removed=removed)
        # Rejecting another reference would teach the model to avoid good translations.
        best = max(references, key=pool.values.__getitem__)
        removed["reference"] += len(references) - 1
        kept = sorted({*range(len(pool.candidates))} - {*references} | {best})
        removed = +removed  # drops zero counts
        if len(kept) < 2:
            return Choice(dropped={"one_candidate": 1}, removed=removed)
        candidates = tuple(pool.candidates[index] for index in kept)
        values = tuple(pool.values[index] for index in kept)
        return self._pairs(Pool(pool.segment, candidates, values, kept.index(best)), removed, judged=False)

    def _pairs(self, pool: Pool, removed: Mapping[str, int], judged: bool) -> Choice:
        dropped: Counter[str] = Counter()
        triplets = []
        proposed = list(self._select(pool))
        for chosen, rejected in proposed:
            reason = self._rejection_reason(pool, chosen, rejected, judged)
            if reason:
                dropped[reason] += 1
            else:
                triplets.append(_triplet(pool, chosen, rejected))
        if not proposed:
            dropped["tie"] += 1
        return Choice(tuple(triplets), dropped, pool.candidates, pool.values, removed)

    def _rejection_reason(self, pool: Pool, chosen: int, rejected: int, judged: bool) -> str:
        """Return the reason to drop the pair, or ""."""
        margin = pool.values[chosen] - pool.values[rejected]
        # Possible if a reference must be chosen, or if a custom selection orders by something else.
        if margin < -ROUNDING:
            return "chosen_not_better" if pool.reference is None else "reference_not_better"
        chosen_text, rejected_text = pool.candidates[chosen].text.strip(), pool.candidates[rejected].text.strip()
        # Equal texts are possible only if deduplicate is off.
        if margin <= ROUNDING or chosen_text == rejected_text:
            return "tie"
        if margin < self._config.min_margin and not judged:
            return "small_margin"
        return self._filters.pair_rejection(chosen_text, rejected_text)


def _triplet(pool: Pool, chosen: int, rejected: int) -> Triplet:
    segment, better, worse = pool.segment, pool.candidates[chosen], pool.candidates[rejected]
    return Triplet(
        id=segment.id,
        src_lang=segment.src_lang,
        tgt_lang=segment.tgt_lang,
        source=segment.source,
        chosen=better.text,
        rejected=worse.text,
        chosen_system=better.system,
        rejected_system=worse.system,
        chosen_scores=better.scores,
        rejected_scores=worse.scores,
        margin=pool.values[chosen] - pool.values[rejected],
    )
