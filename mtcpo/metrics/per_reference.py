"""A lexical metric against each reference by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mtcpo.data.records import Segment
from mtcpo.metrics.base import Array, Judgement, Metric, StandsFor, judge


@dataclass(frozen=True, slots=True)
class AgainstOne(StandsFor):
    """A metric against one of several references alone, named like WMT's `bleu-A`. See `Metric` for the contract."""

    metric: Metric
    label: str
    index: int

    @property
    def name(self) -> str:
        """The metric's name with the reference's."""
        return f"{self.metric.name}-{self.label}"

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the metric's signature for one reference, with its name."""
        return f"{self.metric.signature(1, sentence)}|ref:{self.label}"

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the metric's scores against this reference."""
        return self.metric.score_candidates(self._alone(segments))

    def judge_candidates(self, segments: Sequence[Segment]) -> list[list[Judgement]]:
        """Return the metric's scores and errors against this reference."""
        return judge(self.metric, self._alone(segments))

    def statistics(self, hypotheses: Sequence[str], segments: Sequence[Segment]) -> Array:
        """Return the metric's statistics against this reference. Shape (N, K)."""
        return self.metric.statistics(hypotheses, self._alone(segments))

    def corpus_score(self, sums: Array) -> Array:
        """Return the metric's corpus scores. Shape (..., K) -> (...)."""
        return self.metric.corpus_score(sums)

    def segment_scores(self, statistics: Array) -> Array:
        """Return the metric's segment scores. Shape (N, K) -> (N,)."""
        return self.metric.segment_scores(statistics)

    def _alone(self, segments: Sequence[Segment]) -> list[Segment]:
        return [replace(segment, references=(segment.references[self.index],)) for segment in segments]


def with_each_reference(metrics: Sequence[Metric], reference_names: Sequence[str]) -> list[Metric]:
    """Return each metric, followed, where it uses references, by itself against each of them alone.

    A single reference has its own score too, though it is the same, so that `bleu-A` is there for every pair; unless
    it has no name.
    """
    labels = [] if tuple(reference_names) == ("",) else reference_names
    found: list[Metric] = []
    for metric in metrics:
        found.append(metric)
        if metric.needs_references:
            found += [AgainstOne(metric, label_or_default(label), index) for index, label in enumerate(labels)]
    return found


def label_or_default(label: str) -> str:
    """Return the name of a reference in metric names: `bleu-A`, or `bleu-unnamed`."""
    return label or "unnamed"
