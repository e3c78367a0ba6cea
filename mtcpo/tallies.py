"""The statistics of systems by metrics, on which scores and tests rest; formulas are computed in several processes.

Dimensions: N segments, K additive statistics of a metric.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtcpo.metrics import Metric, metric_kind
from mtcpo.metrics.contract import Judgement, StandsFor, judge
from mtcpo.records import Segment
from mtcpo.scoring import result_of, worker_pool

if TYPE_CHECKING:
    from mtcpo.testsets import TestSet

Array = NDArray[np.float64]

SEGMENTS_PER_TASK = 250
TEXTS_FOR_WORKERS = 8000
"""Texts times formulas below which starting processes takes longer than they save."""


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


def with_each_reference(metrics: Sequence[Metric], test_set: TestSet) -> list[Metric]:
    """Return each metric, followed, where it uses references, by itself against each of them alone.

    A single reference has its own score too, though it is the same, so that `bleu-A` is there for every pair; unless
    it has no name.
    """
    labels = [] if test_set.reference_names == ("",) else test_set.reference_names
    found: list[Metric] = []
    for metric in metrics:
        found.append(metric)
        if metric.needs_references:
            found += [AgainstOne(metric, _spoken(label), index) for index, label in enumerate(labels)]
    return found


def main_metrics(entry: Mapping[str, Any]) -> list[str]:
    """Return the metrics that sentences and plots speak of: all but those against one reference alone (`bleu-A`).

    entry: a test set's part of evaluation.json.
    """
    alone = {f"{name}-{_spoken(label)}" for name in entry["metrics"] for label in entry["reference_names"]}
    return [name for name in entry["metrics"] if name not in alone]


def _spoken(label: str) -> str:
    return label or "unnamed"


def tally(
    metrics: Sequence[Metric], outputs: Mapping[str, Sequence[str]], segments: Sequence[Segment]
) -> dict[str, list[Array]]:
    """Return the statistics (N, K) of each system's outputs, in their order, by metric.

    Formulas run in a process a core where there is enough to do, models in this one.
    """
    formulas = [metric for metric in metrics if _is_formula(metric)]
    workers = os.cpu_count() or 1
    if workers == 1 or len(segments) * len(outputs) * len(formulas) < TEXTS_FOR_WORKERS:
        return {metric.name: _of_systems(metric, outputs, segments) for metric in metrics}
    found: dict[str, list[Array]] = {metric.name: [] for metric in metrics}
    parts = [slice(start, start + SEGMENTS_PER_TASK) for start in range(0, len(segments), SEGMENTS_PER_TASK)]
    with worker_pool(workers) as submit:
        waiting: list[tuple[str, list[Future[Array]]]] = [
            (metric.name, [submit(metric.statistics, texts[part], segments[part]) for part in parts])
            for metric, texts in product(formulas, outputs.values())
        ]
        for metric in metrics:
            if metric not in formulas:
                found[metric.name] = _of_systems(metric, outputs, segments)
        for name, futures in waiting:
            found[name].append(np.concatenate([result_of(future) for future in futures]))
    return found


def _of_systems(metric: Metric, outputs: Mapping[str, Sequence[str]], segments: Sequence[Segment]) -> list[Array]:
    """Return the statistics (N, K) of each system, all systems' texts of a segment after each other."""
    texts = [text for of_segment in zip(*outputs.values(), strict=True) for text in of_segment]
    found = metric.statistics(texts, [segment for segment in segments for _ in outputs])
    return [found[number :: len(outputs)] for number in range(len(outputs))]


def _is_formula(metric: Metric) -> bool:
    inner = metric.metric if isinstance(metric, AgainstOne) else metric
    return metric_kind(inner.name).is_formula
