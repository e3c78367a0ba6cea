"""Compute the additive statistics of systems' outputs, the basis of scores and significance tests.

Dimensions: N segments, K additive statistics of a metric.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mtcpo.core.progress import Progress
from mtcpo.core.workers import map_in_order
from mtcpo.data.records import Segment
from mtcpo.metrics.base import Array, Metric

SEGMENTS_PER_TASK = 250
TEXTS_FOR_WORKERS = 8000
"""With fewer texts x lexical metrics, starting processes takes longer than they save."""

Task = tuple[Metric, Sequence[str], Sequence[Segment]]
"""A lexical metric, a part of one system's outputs, and their segments."""


def compute_statistics(
    metrics: Sequence[Metric], outputs: Mapping[str, Sequence[str]], segments: Sequence[Segment]
) -> dict[str, list[Array]]:
    """Return metric -> statistics (N, K) of each system's outputs, in the order of the systems.

    Lexical metrics run in one process per core if there is enough to do, neural metrics in this process.
    """
    lexical = [metric for metric in metrics if metric.is_lexical]
    of_lexical = _of_lexical(lexical, outputs, segments)
    statistics: dict[str, list[Array]] = {}
    for metric in metrics:
        if metric.is_lexical:
            statistics[metric.name] = of_lexical[metric.name]
        else:
            statistics[metric.name] = _of_all_systems(metric, outputs, segments)
    return statistics


def _of_lexical(
    metrics: Sequence[Metric], outputs: Mapping[str, Sequence[str]], segments: Sequence[Segment]
) -> dict[str, list[Array]]:
    """Return metric -> statistics (N, K) of each system, computed by all cores."""
    texts = len(segments) * len(outputs) * len(metrics)
    # os.cpu_count() is None if the operating system does not say.
    workers = (os.cpu_count() or 1) if texts >= TEXTS_FOR_WORKERS else 1
    rows: dict[str, list[Array]] = {metric.name: [] for metric in metrics}
    with Progress(f"scoring by {', '.join(rows)}", texts, "texts") as progress:
        for (metric, part, _), counted in map_in_order(_count, _tasks(metrics, outputs, segments), workers):
            rows[metric.name].append(counted)
            progress.update(len(part))
    ends = [len(segments) * number for number in range(1, len(outputs))]
    return {name: np.split(np.concatenate(parts), ends) for name, parts in rows.items()}


def _tasks(
    metrics: Sequence[Metric], outputs: Mapping[str, Sequence[str]], segments: Sequence[Segment]
) -> Iterator[Task]:
    """Yield parts small enough to keep all processes busy to the end, system after system."""
    for metric in metrics:
        for texts in outputs.values():
            for start in range(0, len(segments), SEGMENTS_PER_TASK):
                part = slice(start, start + SEGMENTS_PER_TASK)
                yield metric, texts[part], segments[part]


def _count(task: Task) -> Array:
    """Return the statistics of a task; runs in a worker too."""
    metric, texts, segments = task
    return metric.statistics(texts, segments)


def _of_all_systems(metric: Metric, outputs: Mapping[str, Sequence[str]], segments: Sequence[Segment]) -> list[Array]:
    """Return the statistics (N, K) of each system, computed in one call."""
    # A segment's texts are adjacent: a neural metric then encodes source and reference only once.
    texts: list[str] = []
    repeated: list[Segment] = []
    for segment, translations in zip(segments, zip(*outputs.values(), strict=True), strict=True):
        texts.extend(translations)
        repeated.extend([segment] * len(outputs))
    statistics = metric.statistics(texts, repeated)
    return [statistics[system :: len(outputs)] for system in range(len(outputs))]
