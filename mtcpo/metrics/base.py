"""What a metric is: of single translations, and of whole corpora."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mtcpo.data.records import Candidate, ErrorSpan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mtcpo.data.records import Segment


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


@runtime_checkable
class InProcesses(Protocol):
    """A metric that scores in several processes, and so wants several times as many segments at once."""

    @property
    def processes(self) -> int:
        """How many there are."""


def processes_of(metric: CandidateMetric) -> int:
    """Return in how many processes a metric scores."""
    return metric.processes if isinstance(metric, InProcesses) else 1


class Judgement(NamedTuple):
    """What a metric says of a translation. errors: None of a metric that finds none but only scores."""

    score: float
    errors: tuple[ErrorSpan, ...] | None = None


@runtime_checkable
class Judge(Protocol):
    """A metric that may find the errors in translations beside their scores."""

    @property
    def finds_errors(self) -> bool:
        """Whether it does."""

    def judge_candidates(self, segments: Sequence[Segment]) -> list[list[Judgement]]:
        """Return the scores of `score_candidates`, with the errors."""


def finds_errors(metric: CandidateMetric) -> bool:
    """Whether a metric finds the errors in translations."""
    return isinstance(metric, Judge) and metric.finds_errors


def judge(metric: CandidateMetric, segments: Sequence[Segment]) -> list[list[Judgement]]:
    """Return a metric's scores of each candidate of each segment, with the errors where it finds them."""
    if isinstance(metric, Judge):
        return metric.judge_candidates(segments)
    return bare_judgements(metric.score_candidates(segments))


def bare_judgements(scores: Iterable[Iterable[float]]) -> list[list[Judgement]]:
    """Return scores as the judgements of a metric that finds no errors."""
    return [[Judgement(score) for score in of_segment] for of_segment in scores]


def scores_of(judged: Sequence[Sequence[Judgement]]) -> list[list[float]]:
    """Return the scores alone."""
    return [[one.score for one in of_segment] for of_segment in judged]


def judged_by(metric: str, candidate: Candidate, judgement: Judgement) -> Candidate:
    """Return a candidate with what the metric of that name says of it."""
    errors = candidate.errors if judgement.errors is None else {**candidate.errors, metric: judgement.errors}
    return replace(candidate, scores={**candidate.scores, metric: judgement.score}, errors=errors)


@runtime_checkable
class Loadable(Protocol):
    """A metric that loads a model when it first scores."""

    def open(self) -> None:
        """Load the model now, so that what is wrong with it shows."""


def open_models(metrics: Iterable[CandidateMetric]) -> None:
    """Load the models of metrics now: before work that would be lost if one cannot be loaded."""
    for metric in metrics:
        if isinstance(metric, Loadable):
            metric.open()


class MeanOfSegments(ABC):
    """The part of `Metric` that a metric has whose corpus score is the mean of its segments' scores."""

    __slots__ = ()

    @abstractmethod
    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return scores[segment][candidate]."""

    def statistics(self, hypotheses: Sequence[str], segments: Sequence[Segment]) -> NDArray[np.float64]:
        """Return (score, 1) of each hypothesis. Shape (N, 2)."""
        import numpy as np

        # The hypotheses of one segment that follow each other are scored as its candidates, together.
        asked = []
        for _, group in groupby(zip(segments, hypotheses, strict=True), key=lambda pair: id(pair[0])):
            rows = list(group)
            candidates = tuple(Candidate(str(number), text) for number, (_, text) in enumerate(rows))
            asked.append(replace(rows[0][0], candidates=candidates))
        scores = np.array([score for of_segment in self.score_candidates(asked) for score in of_segment], np.float64)
        return np.stack([scores, np.ones(len(scores))], axis=1)

    def corpus_score(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean score of summed statistics. Shape (..., 2) -> (...)."""
        score: NDArray[np.float64] = sums[..., 0] / sums[..., 1]
        return score

    def segment_scores(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the score of each segment. Shape (N, 2) -> (N,)."""
        return self.corpus_score(statistics)


class StandsFor:
    """What stands in for a metric says of itself what the metric says. A subclass has it as `metric`."""

    __slots__ = ()
    metric: Metric

    @property
    def name(self) -> str:
        """As the metric's."""
        return self.metric.name

    @property
    def needs_references(self) -> bool:
        """As the metric's."""
        return self.metric.needs_references

    @property
    def higher_is_better(self) -> bool:
        """As the metric's."""
        return self.metric.higher_is_better

    @property
    def percent(self) -> bool:
        """As the metric's."""
        return self.metric.percent

    @property
    def finds_errors(self) -> bool:
        """As the metric does."""
        return finds_errors(self.metric)


Array = NDArray[np.float64]
