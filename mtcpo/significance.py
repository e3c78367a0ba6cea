"""Is one system better than another, or was it chance? Paired bootstrap resampling (Koehn 2004).

Dimensions: N segments, K additive statistics of a metric, R resamples.

A resample draws N segments with replacement. Since a corpus score depends only on sums of per-segment statistics,
a resample is a row of counts, and all resamples of all systems and metrics are one matrix product:
counts (R, N) x statistics (N, K). Every metric and every system sees the same resampled segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scorer = Callable[[Array], Array]
"""Summed statistics (..., K) -> corpus scores (...)."""

BLOCK_ELEMENTS = 4_000_000
"""Counts held at once, as float64: 32 MB, whatever the number of resamples."""


def resample_counts(num_segments: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield blocks (R', N) of how often each segment was drawn, R rows in all.

    The draws are those of sacreBLEU under the same seed (its default is 12345), in whatever blocks.
    """
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // num_segments)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.choice(num_segments, size=(rows, num_segments), replace=True)
        drawn += np.arange(rows)[:, None] * num_segments
        counts = np.bincount(drawn.ravel(), minlength=rows * num_segments)
        yield counts.reshape(rows, num_segments).astype(np.float64)


def bootstrap_scores(statistics: Sequence[Array], scorers: Sequence[Scorer], resamples: int, seed: int) -> list[Array]:
    """Return the corpus scores (R,) on the resamples, one array for each pair of statistics (N, K) and scorer.

    All of them see the same resamples, so that differences between any two are paired.
    """
    if not statistics:
        return []
    edges = np.cumsum([table.shape[1] for table in statistics])[:-1]
    joined = np.concatenate(statistics, axis=1, dtype=np.float64)
    blocks: list[list[Array]] = [[] for _ in statistics]
    for counts in resample_counts(len(joined), resamples, seed):
        for scores, scorer, sums in zip(blocks, scorers, np.split(counts @ joined, edges, axis=1), strict=True):
            scores.append(scorer(sums))
    return [np.concatenate(scores) for scores in blocks]


def interval_95(scores: Array) -> tuple[float, float]:
    """Return the bounds that leave out one fortieth of the resampled scores at each end, as sacreBLEU takes them."""
    ordered = np.sort(scores)
    cut = len(ordered) // 40
    return float(ordered[cut]), float(ordered[len(ordered) - cut - 1])


def half_width_95(scores: Array) -> float:
    """Return half the width of the 95 % interval of resampled scores (R,): the number after the +/-."""
    low, high = interval_95(scores)
    return (high - low) / 2


def bootstrap_p_value(differences: Array, observed: float) -> float:
    """Return how likely a difference as large as `observed` is by chance, from resampled differences (R,).

    As sacreBLEU and Moses compute it: the absolute differences, less their mean, stand for those under the null
    hypothesis; p = (number above |observed| + 1) / (R + 1). For a clear difference that approaches a one-sided test.

    One departure: where no resample differs at all the systems are the same to this metric, and p is 1
    (sacreBLEU's formula gives its smallest value, 1 / (R + 1)).
    """
    if observed == 0.0 and not differences.any():
        return 1.0
    absolute = np.abs(differences)
    above = np.count_nonzero(absolute - absolute.mean() > abs(observed))
    return float((above + 1) / (len(differences) + 1))
