"""Minimum Bayes risk: each candidate is scored against all candidates of the model as if they were references.

Needs no reference. Eikema and Aziz 2022 (arXiv 2108.04718); to choose preference pairs: arXiv 2311.08380.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from mtcpo.data.records import Segment, is_reference
from mtcpo.metrics.base import CandidateMetric


@dataclass(frozen=True, slots=True)
class MbrMetric(CandidateMetric):
    """Expected utility: the mean utility of a candidate against every candidate, itself and repeated texts included.

    References among the candidates are scored like the others, but do not serve as pseudo-references: what counts is
    the consensus of the model's own outputs.
    """

    utility: CandidateMetric
    name: str = "mbr"

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the utility's signature for one pseudo-reference at a time."""
        return f"mbr:{self.utility.name}|{self.utility.signature(1, sentence)}"

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the expected utilities[segment][candidate]."""
        pseudo_references = list(map(_pseudo_references, segments))
        # One segment for each pseudo-reference, all in one call, so that the utility can sort them all by length.
        against_one: list[Segment] = []
        for segment, texts in zip(segments, pseudo_references, strict=True):
            against_one += [replace(segment, references=(text,)) for text in texts]
        utilities = iter(self.utility.score_candidates(against_one))
        means: list[list[float]] = []
        for segment, texts in zip(segments, pseudo_references, strict=True):
            means.append(_means(list(islice(utilities, len(texts))), len(segment.candidates)))
        return means


def _pseudo_references(segment: Segment) -> list[str]:
    # An empty candidate is no evidence, and some utilities refuse it as a reference.
    return [c.text for c in segment.candidates if c.text.strip() and not is_reference(c.system)]


def _means(utilities: Sequence[Sequence[float]], candidates: int) -> list[float]:
    """Return each candidate's mean over the pseudo-references. utilities: [pseudo-reference][candidate]."""
    if not utilities:  # no candidate has any text
        return [0.0] * candidates
    return [sum(column) / len(column) for column in zip(*utilities, strict=True)]
