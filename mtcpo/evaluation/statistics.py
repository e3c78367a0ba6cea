"""Compute the additive statistics of systems' outputs, the basis of scores and significance tests.

Dimensions: N segments, K additive statistics of a metric.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from mtcpo.core.workers import result_of, worker_pool
from mtcpo.data.records import Segment
from mtcpo.metrics.base import Array, Metric

SEGMENTS_PER_TASK = 250
TEXTS_FOR_WORKERS = 8000
"""With fewer texts x lexical metrics, starting processes takes longer than they save."""


def compute_statistics(
    metrics: Sequence[Metric], outputs: Mapping[str, Sequence[str]], segments: Sequence[Segment]
) -> dict[str, list[Array]]:
    """Return metric -> statistics (N, K) of each system's outputs, in the order of the systems.

    Lexical metrics run in one process per core if there is enough to do, neural metrics in this process.
    """
    lexical = [metric for metric in metrics if metric.is_lexical]
    workers = os.cpu_count() or 1  # None if the operating system does not say
    # Keyed in the order of the metrics, whichever is computed first.
    statistics: dict[str, list[Array]] = {metric.name: [] for metric in metrics}
    if workers == 1 or len(segments) * len(outputs) * len(lexical) < TEXTS_FOR_WORKERS:
        for metric in metrics:
            statistics[metric.name] = _of_all_systems(metric, outputs, segments)
        return statistics
    with worker_pool(workers) as submit:
        # All tasks are submitted before the neural metrics run, so that the workers are busy meanwhile.
        tasks: list[tuple[str, list[Future[Array]]]] = []
        for metric in lexical:
            for texts in outputs.values():
                tasks.append((metric.name, _submit_in_parts(submit, metric, texts, segments)))
        for metric in metrics:
            if metric not in lexical:
                statistics[metric.name] = _of_all_systems(metric, outputs, segments)
        for name, parts in tasks:
            statistics[name].append(np.concatenate([result_of(part) for part in parts]))
    return statistics


def _submit_in_parts(
    submit: Callable[..., Future[Array]], metric: Metric, texts: Sequence[str], segments: Sequence[Segment]
) -> list[Future[Array]]:
    """Hand one system's outputs to the workers, in parts that keep all of them busy to the end."""
    parts = []
    for start in range(0, len(segments), SEGMENTS_PER_TASK):
        part = slice(start, start + SEGMENTS_PER_TASK)
        parts.append(submit(metric.statistics, texts[part], segments[part]))
    return parts


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
