"""Minimum Bayes risk: each candidate against all candidates of the model as if they were references.

Needs no reference. Eikema and Aziz 2022 (arXiv 2108.04718); as the chooser of preference pairs: arXiv 2311.08380.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mtcpo.data.records import Segment, is_reference

if TYPE_CHECKING:
    from mtcpo.metrics.base import CandidateMetric


@dataclass(frozen=True, slots=True)
class MbrMetric:
    """Expected utility: the mean utility of a candidate against every candidate, itself and repeated texts included.

    References among the candidates are scored like the others and are no pseudo-references: what is wanted is the
    model's own consensus.
    """

    utility: CandidateMetric
    name: str = "mbr"

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the utility's signature against one pseudo-reference at a time."""
        return f"mbr:{self.utility.name}|{self.utility.signature(1, sentence)}"

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the expected utility of each candidate of each segment."""
        # An empty candidate is evidence for nothing, and some utilities refuse it as a reference.
        pseudo = [
            [c.text for c in segment.candidates if c.text.strip() and not is_reference(c.system)]
            for segment in segments
        ]
        asked = [
            replace(segment, references=(text,))
            for segment, texts in zip(segments, pseudo, strict=True)
            for text in texts
        ]
        found = iter(self.utility.score_candidates(asked))
        return [_means([next(found) for _ in texts], segment) for segment, texts in zip(segments, pseudo, strict=True)]


def _means(utilities: Sequence[Sequence[float]], segment: Segment) -> list[float]:
    """Return each candidate's mean over the pseudo-references; utilities[pseudo-reference][candidate]."""
    if not utilities:
        return [0.0] * len(segment.candidates)
    return [sum(column) / len(column) for column in zip(*utilities, strict=True)]
