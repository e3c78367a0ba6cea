"""The base classes of metrics, which score single translations and, in most cases, whole corpora.

    CandidateMetric    scores single translations
      Metric           scores corpora as well, from statistics that add up over segments: BLEU, chrF, TER
        NeuralMetric   the corpus score is the mean of the segment scores: COMET, custom metrics

A new metric derives from the lowest of these that fits, and overrides what differs from the defaults.
Dimensions: N segments, K additive statistics of a segment, C candidates and R references of a segment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtcpo.data.records import Candidate, ErrorSpan, Segment

Array = NDArray[np.float64]


class ScoreWithSpans(NamedTuple):
    """The score of a translation and its error spans; errors is None if the metric only scores."""

    score: float
    errors: tuple[ErrorSpan, ...] | None = None


def scores_only(rows: Iterable[Iterable[ScoreWithSpans]]) -> list[list[float]]:
    """Return the scores without the error spans."""
    return [[scored.score for scored in row] for row in rows]


def without_spans(rows: Iterable[Iterable[float]]) -> list[list[ScoreWithSpans]]:
    """Return plain scores in the form of `score_with_spans`, with errors None."""
    return [[ScoreWithSpans(score) for score in row] for row in rows]


def with_score(metric: str, candidate: Candidate, scored: ScoreWithSpans) -> Candidate:
    """Return the candidate with its score, and its error spans if there are any, under the metric's name."""
    errors = candidate.errors if scored.errors is None else {**candidate.errors, metric: scored.errors}
    return replace(candidate, scores={**candidate.scores, metric: scored.score}, errors=errors)


class CandidateMetric(ABC):
    """A metric of single translations.

    name: the key in `scores` and in evaluation.json. processes: how many processes score in parallel; callers
    pass that many times as many segments. finds_error_spans: whether `score_with_spans` returns error spans.
    """

    __slots__ = ()
    name: str
    processes: int = 1
    finds_error_spans: bool = False

    @abstractmethod
    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return everything needed to reproduce the scores; part of a score's key in the cache.

        Args:
            num_references: Number of references per segment; -1: it varies.
            sentence: True for the scores of `score_candidates`, False for the corpus score.
        """

    @abstractmethod
    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return scores[segment][candidate], higher is better (TER is negated).

        Raises:
            UserError: A segment has no reference, and the metric needs one.
        """

    def score_with_spans(self, segments: Sequence[Segment]) -> list[list[ScoreWithSpans]]:
        """Return the scores of `score_candidates`, with error spans where the metric finds them."""
        return without_spans(self.score_candidates(segments))

    def score_pairs(self, segments: Sequence[Segment]) -> list[Array]:
        """Return, for each segment, the score of each candidate against each reference alone. Shape (C, R)."""
        # One segment for each reference, all in one call, so that a model can sort all of them by length.
        against_one: list[Segment] = []
        for segment in segments:
            against_one += [replace(segment, references=(text,)) for text in segment.references]
        by_reference = iter(self.score_candidates(against_one))
        pairs: list[Array] = []
        for segment in segments:
            rows = list(islice(by_reference, len(segment.references)))
            pairs.append(np.array(rows, np.float64).reshape(len(rows), len(segment.candidates)).T)
        return pairs

    @property
    def can_aggregate(self) -> bool:
        """Whether `score_against_aggregate` exists."""
        return False

    def score_against_aggregate(self, segments: Sequence[Segment]) -> list[Array]:
        """Return, for each segment, the score of each candidate against the mean of all references. Shape (C,).

        What is averaged is what the metric compares: n-gram counts, or sentence embeddings. One comparison instead of
        one per reference: Vamvas and Sennrich 2024 (arXiv 2402.04251), DeNero et al. 2009 (n-gram counts).
        """
        raise NotImplementedError

    def open(self) -> None:
        """Load the model, if any, so that an error shows before hours of other work."""
        return None


class Metric(CandidateMetric):
    """A metric of single translations and of corpora.

    needs_references: a segment without references is an error. uses_references: scores depend on the references.
    higher_is_better: of the score as printed, so False for TER; scores of candidates are always higher-is-better.
    percent: scores range from 0 to 100 (TER may exceed it), not from 0 to 1 or so. is_lexical: string arithmetic,
    which runs in worker processes and is not cached.
    """

    __slots__ = ()
    needs_references: bool
    uses_references: bool = True
    higher_is_better: bool = True
    percent: bool = False
    is_lexical: bool = False

    @abstractmethod
    def statistics(self, hypotheses: Sequence[str], segments: Sequence[Segment]) -> Array:
        """Return the additive statistics of each hypothesis against its segment. Shape (N, K)."""

    @abstractmethod
    def corpus_score(self, sums: Array) -> Array:
        """Return the corpus scores, as printed, for summed statistics. Shape (..., K) -> (...)."""

    @abstractmethod
    def segment_scores(self, statistics: Array) -> Array:
        """Return the scores of `score_candidates`, from statistics; higher is better. Shape (N, K) -> (N,)."""


class NeuralMetric(Metric):
    """A metric whose corpus score is the mean of its segment scores; a subclass only has to score candidates."""

    __slots__ = ()

    def statistics(self, hypotheses: Sequence[str], segments: Sequence[Segment]) -> Array:
        """Return (score, 1) of each hypothesis. Shape (N, 2)."""
        # Adjacent hypotheses of the same segment become its candidates: the model then encodes their source once.
        # `is`, not ==: two segments of a test set may be equal and still have different hypotheses.
        as_candidates: list[Segment] = []
        for _, group in groupby(zip(segments, hypotheses, strict=True), key=lambda pair: id(pair[0])):
            rows = list(group)
            candidates = tuple(Candidate(str(number), text) for number, (_, text) in enumerate(rows))
            as_candidates.append(replace(rows[0][0], candidates=candidates))
        scores: list[float] = []
        for row in self.score_candidates(as_candidates):
            scores += row
        return np.stack([np.array(scores, np.float64), np.ones(len(scores))], axis=1)

    def corpus_score(self, sums: Array) -> Array:
        """Return the mean scores, as printed, for summed statistics. Shape (..., 2) -> (...)."""
        mean = self.segment_scores(sums)
        # Segment scores of a lower-is-better metric are negated; 0.0 - x, since -x would print "-0".
        return mean if self.higher_is_better else 0.0 - mean

    def segment_scores(self, statistics: Array) -> Array:
        """Return the score of each segment, higher is better. Shape (N, 2) -> (N,)."""
        score: Array = statistics[..., 0] / statistics[..., 1]
        return score


class MetricProxy(Metric):
    """Wraps another metric and behaves like it; a subclass overrides what differs."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.name = metric.name
        self.processes = metric.processes
        self.finds_error_spans = metric.finds_error_spans
        self.needs_references = metric.needs_references
        self.uses_references = metric.uses_references
        self.higher_is_better = metric.higher_is_better
        self.percent = metric.percent
        self.is_lexical = metric.is_lexical

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the wrapped metric's signature."""
        return self.metric.signature(num_references, sentence)

    def open(self) -> None:
        """Load the wrapped metric's model."""
        self.metric.open()

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the wrapped metric's scores[segment][candidate]."""
        return self.metric.score_candidates(segments)

    def score_with_spans(self, segments: Sequence[Segment]) -> list[list[ScoreWithSpans]]:
        """Return the wrapped metric's scores and error spans."""
        return self.metric.score_with_spans(segments)

    def statistics(self, hypotheses: Sequence[str], segments: Sequence[Segment]) -> Array:
        """Return the wrapped metric's statistics. Shape (N, K)."""
        return self.metric.statistics(hypotheses, segments)

    def corpus_score(self, sums: Array) -> Array:
        """Return the wrapped metric's corpus scores. Shape (..., K) -> (...)."""
        return self.metric.corpus_score(sums)

    def segment_scores(self, statistics: Array) -> Array:
        """Return the wrapped metric's segment scores. Shape (N, K) -> (N,)."""
        return self.metric.segment_scores(statistics)
