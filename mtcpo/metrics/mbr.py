"""Minimum Bayes risk: each candidate is scored against all candidates of the model as if they were references.

Needs no reference. Eikema and Aziz 2022 (arXiv 2108.04718); to choose preference pairs: arXiv 2311.08380.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mtcpo.data.records import Candidate, Segment, is_reference
from mtcpo.metrics.base import CandidateMetric


@dataclass(frozen=True, slots=True)
class MbrMetric(CandidateMetric):
    """Expected utility: the mean utility of a candidate against every candidate, itself and repeated texts included.

    References among the candidates are scored like the others, but do not serve as pseudo-references: what counts is
    the consensus of the model's own outputs.

    aggregate: compare each candidate once with the mean of all pseudo-references, an approximation, instead of with
    each of them; for utilities that can, see `CandidateMetric.can_aggregate`.
    """

    utility: CandidateMetric
    name: str = "mbr"
    aggregate: bool = False

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the utility's signature for one pseudo-reference at a time."""
        signature = f"mbr:{self.utility.name}|{self.utility.signature(1, sentence)}"
        return f"{signature}|references:aggregated" if self.aggregate else signature

    def open(self) -> None:
        """Load the utility's model."""
        self.utility.open()

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the expected utilities[segment][candidate]; all are 0 if no candidate has any text."""
        counts = list(map(_pseudo_references, segments))
        utilities = (self._against_aggregate if self.aggregate else self._against_each)(segments, counts)
        means: list[list[float]] = []
        for segment, utility_of in zip(segments, utilities, strict=True):
            means.append([utility_of.get(candidate.text, 0.0) for candidate in segment.candidates])
        return means

    def _against_each(self, segments: Sequence[Segment], counts: Sequence[Counter[str]]) -> list[dict[str, float]]:
        """Return text -> mean utility, for each segment. counts: text of a pseudo-reference -> how often it occurs."""
        distinct = list(map(_against, segments, counts))
        means: list[dict[str, float]] = []
        for segment, count, pairs in zip(distinct, counts, self.utility.score_pairs(distinct), strict=True):
            weights = list(count.values())
            rows = zip(segment.candidates, pairs.tolist(), strict=True)
            means.append({candidate.text: _weighted_mean(row, weights) for candidate, row in rows})
        return means

    def _against_aggregate(self, segments: Sequence[Segment], counts: Sequence[Counter[str]]) -> list[dict[str, float]]:
        """Return text -> utility against the mean of all pseudo-references, for each segment."""
        # With repetitions: a text that was drawn twice counts twice in the mean.
        repeated = list(map(_against, segments, map(Counter.elements, counts)))
        utilities: list[dict[str, float]] = []
        for segment, scores in zip(repeated, self.utility.score_against_aggregate(repeated), strict=True):
            texts = [candidate.text for candidate in segment.candidates]
            utilities.append(dict(zip(texts, scores.tolist(), strict=True)))
        return utilities


def _pseudo_references(segment: Segment) -> Counter[str]:
    """Return the texts that serve as references, and how often each occurs among the candidates."""
    # An empty candidate is no evidence, and some utilities refuse it as a reference.
    return Counter(c.text for c in segment.candidates if c.text.strip() and not is_reference(c.system))


def _against(segment: Segment, pseudo_references: Iterable[str]) -> Segment:
    """Return the segment with these references, and one candidate for each text; with none if there is no reference."""
    references, candidates = tuple(pseudo_references), dict[str, Candidate]()
    for candidate in segment.candidates if references else ():
        candidates.setdefault(candidate.text, candidate)
    return replace(segment, references=references, candidates=tuple(candidates.values()))


def _weighted_mean(utilities: Sequence[float], weights: Sequence[int]) -> float:
    """Return the mean over the pseudo-references. Shape (R,), (R,)."""
    # Rounded once: the order of the candidates must not break a tie.
    return math.fsum(map(operator.mul, utilities, weights)) / sum(weights)
