"""What a metric is: of single translations, and of whole corpora."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mtcpo.records import Segment


class CandidateMetric(Protocol):
    """A loaded metric of single translations."""

    @property
    def name(self) -> str:
        """Key in `scores` and in evaluation.json."""

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return what a reader needs to compute the same numbers; -1 references: their number varies.

        sentence: of the scores of `score_candidates` and not of the corpus score.
        """

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return scores[segment][candidate], higher is better (ter negated).

        Raises:
            UserError: a segment without references where the metric needs them.
        """


class Metric(CandidateMetric, Protocol):
    """A loaded metric of translations and of corpora. Dimensions: N segments, K additive statistics of a segment.

    higher_is_better speaks of the score as printed, so it is False for ter; what `score_candidates` returns and what
    records store is always higher-is-better.
    """

    @property
    def needs_references(self) -> bool:
        """Whether segments without references are refused."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher printed score is better."""

    @property
    def percent(self) -> bool:
        """Whether scores run from 0 to 100 (ter may exceed it) and not about from 0 to 1."""

    def statistics(self, hypotheses: Sequence[str], segments: Sequence[Segment]) -> NDArray[np.float64]:
        """Return the additive statistics of each hypothesis against its segment. Shape (N, K)."""

    def corpus_score(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the corpus scores, as printed, of summed statistics. Shape (..., K) -> (...)."""

    def segment_scores(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what `score_candidates` would, of statistics. Shape (N, K) -> (N,)."""
