"""A metric against each of several references alone, beside its score against all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mtcpo.data.records import Segment
from mtcpo.metrics.base import Array, Metric, MetricProxy, ScoreWithSpans


class SingleReferenceMetric(MetricProxy):
    """A metric against one of several references, named as WMT names it: `bleu-A`.

    label: the reference's name. index: its index among a segment's references.
    """

    def __init__(self, metric: Metric, label: str, index: int) -> None:
        super().__init__(metric)
        self.name = f"{metric.name}-{label}"
        self._label = label
        self._index = index

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the metric's signature for one reference, with the reference's name."""
        return f"{self.metric.signature(1, sentence)}|ref:{self._label}"

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return scores[segment][candidate] against this reference."""
        return self.metric.score_candidates(self._with_one_reference(segments))

    def score_with_spans(self, segments: Sequence[Segment]) -> list[list[ScoreWithSpans]]:
        """Return scores and error spans against this reference."""
        return self.metric.score_with_spans(self._with_one_reference(segments))

    def statistics(self, hypotheses: Sequence[str], segments: Sequence[Segment]) -> Array:
        """Return the statistics against this reference. Shape (N, K)."""
        return self.metric.statistics(hypotheses, self._with_one_reference(segments))

    def _with_one_reference(self, segments: Sequence[Segment]) -> list[Segment]:
        return [replace(segment, references=(segment.references[self._index],)) for segment in segments]


def with_each_reference(metrics: Sequence[Metric], reference_names: Sequence[str]) -> list[Metric]:
    """Return each metric and, if it uses references, also the metric against each single reference.

    A single named reference gets its own score too, although it is the same, so every language pair has a `bleu-A`; a
    single unnamed reference does not.
    """
    # ("",) is the one unnamed file of `--reference FILE`.
    labels = [] if tuple(reference_names) == ("",) else reference_names
    expanded: list[Metric] = []
    for metric in metrics:
        expanded.append(metric)
        if metric.needs_references:
            for index, label in enumerate(labels):
                expanded.append(SingleReferenceMetric(metric, label_or_default(label), index))
    return expanded


def label_or_default(label: str) -> str:
    """Return a reference's name for use in metric names: `A` as in `bleu-A`, or `unnamed`."""
    return label or "unnamed"
