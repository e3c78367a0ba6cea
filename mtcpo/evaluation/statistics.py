"""The statistics of systems by metrics, on which scores and tests rest; lexical ones are computed in several processes.

Dimensions: N segments, K additive statistics of a metric.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from mtcpo.core.workers import result_of, worker_pool
from mtcpo.data.records import Segment
from mtcpo.metrics.base import Array, Metric

if TYPE_CHECKING:
    pass

SEGMENTS_PER_TASK = 250
TEXTS_FOR_WORKERS = 8000
"""Texts times lexical metrics below which starting processes takes longer than they save."""


def tally(
    metrics: Sequence[Metric], outputs: Mapping[str, Sequence[str]], segments: Sequence[Segment]
) -> dict[str, list[Array]]:
    """Return the statistics (N, K) of each system's outputs, in their order, by metric.

    Lexical metrics run in a process for each core where there is enough to do, neural ones in this one.
    """
    lexical = [metric for metric in metrics if metric.is_lexical]
    workers = os.cpu_count() or 1
    if workers == 1 or len(segments) * len(outputs) * len(lexical) < TEXTS_FOR_WORKERS:
        return {metric.name: _of_systems(metric, outputs, segments) for metric in metrics}
    found: dict[str, list[Array]] = {metric.name: [] for metric in metrics}
    parts = [slice(start, start + SEGMENTS_PER_TASK) for start in range(0, len(segments), SEGMENTS_PER_TASK)]
    with worker_pool(workers) as submit:
        waiting: list[tuple[str, list[Future[Array]]]] = [
            (metric.name, [submit(metric.statistics, texts[part], segments[part]) for part in parts])
            for metric, texts in product(lexical, outputs.values())
        ]
        for metric in metrics:
            if metric not in lexical:
                found[metric.name] = _of_systems(metric, outputs, segments)
        for name, futures in waiting:
            found[name].append(np.concatenate([result_of(future) for future in futures]))
    return found


def _of_systems(metric: Metric, outputs: Mapping[str, Sequence[str]], segments: Sequence[Segment]) -> list[Array]:
    """Return the statistics (N, K) of each system, all systems' texts of a segment after each other."""
    texts = [text for of_segment in zip(*outputs.values(), strict=True) for text in of_segment]
    found = metric.statistics(texts, [segment for segment in segments for _ in outputs])
    return [found[number :: len(outputs)] for number in range(len(outputs))]
