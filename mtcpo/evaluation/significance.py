"""Is one system better than another, or is it chance? Paired bootstrap and paired approximate randomization.

Dimensions: N segments, K additive statistics of a metric, R resamples (of the bootstrap) or trials (of the
randomization).

A corpus score depends only on sums of per-segment statistics. So a resample, N segments drawn with replacement
(Koehn 2004), is a row of counts, and a trial, in which two systems swap the outputs of some segments (Riezler and
Maxwell 2005), is a row of zeros and ones; all of them, for all systems and metrics, are one matrix product with the
statistics (N, K). Every metric and every system sees the same resamples and the same trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mtcpo.core.progress import Progress

Array = NDArray[np.float64]
Scorer = Callable[[Array], Array]
"""Summed statistics (..., K) -> corpus scores (...)."""

BLOCK_ELEMENTS = 4_000_000
"""Elements held in memory at a time, as float64: 32 MB, whatever the number of resamples."""

DRAWS_PER_WORD = 32
"""NumPy's generator takes 32 booleans from one random word, and discards the bits that a call leaves unused."""

ROUNDING = 1e-9
"""Scores that differ by less are equal: the same numbers, added in another order."""


def resample_counts(num_segments: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield blocks (R', N) of how often each segment was drawn, R rows in all.

    The draws are those of sacreBLEU under the same seed (its default is 12345), whatever the size of the blocks.
    """
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // num_segments)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.choice(num_segments, size=(rows, num_segments), replace=True)
        # Each row gets its own range of numbers, so that one call of bincount counts all rows.
        drawn += np.arange(rows)[:, None] * num_segments
        counts = np.bincount(drawn.ravel(), minlength=rows * num_segments)
        # float64: the product with the statistics then runs in BLAS, and is exact for counts.
        yield counts.reshape(rows, num_segments).astype(np.float64)


def swap_masks(num_segments: int, trials: int, seed: int) -> Iterator[Array]:
    """Yield blocks (R', N): 1 where a trial takes the baseline's output, 0 where it takes the system's; R rows in all.

    The draws are those of sacreBLEU under the same seed, whatever the size of the blocks.
    """
    rng = np.random.default_rng(seed)
    # A multiple of the booleans per word, so that no bits are discarded between blocks and the draws equal sacreBLEU's.
    block = max(1, BLOCK_ELEMENTS // num_segments // DRAWS_PER_WORD) * DRAWS_PER_WORD
    for start in range(0, trials, block):
        size = min(block, trials - start), num_segments
        yield rng.integers(2, size=size, dtype=bool).astype(np.float64)


def bootstrap_scores(statistics: Sequence[Array], scorers: Sequence[Scorer], resamples: int, seed: int) -> list[Array]:
    """Return the corpus scores (R,) on the resamples, one array for each pair of statistics (N, K) and scorer.

    All of them see the same resamples, so that differences between any two are paired.
    """
    blocks: list[list[Array]] = [[] for _ in statistics]
    for sums in _products(statistics, resample_counts, resamples, seed):
        for scores, scorer, part in zip(blocks, scorers, sums, strict=True):
            scores.append(scorer(part))
    return [np.concatenate(scores) for scores in blocks]


def randomized_differences(
    pairs: Sequence[tuple[Array, Array]], scorers: Sequence[Scorer], trials: int, seed: int
) -> list[Array]:
    """Return the absolute differences (R,) of two systems after swaps, for each pair of statistics and its scorer.

    All pairs see the same swaps.
    """
    totals, changes = [], []
    for first, second in pairs:
        totals.append((first.sum(axis=0), second.sum(axis=0)))
        changes.append(first - second)
    blocks: list[list[Array]] = [[] for _ in pairs]
    for sums in _products(changes, swap_masks, trials, seed):
        for differences, scorer, swapped, (first, second) in zip(blocks, scorers, sums, totals, strict=True):
            # One pseudo-system is the second system plus (first - second) on the swapped segments; the other is the
            # first system minus the same.
            differences.append(np.abs(scorer(second + swapped) - scorer(first - swapped)))
    return [np.concatenate(differences) for differences in blocks]


def _products(
    statistics: Sequence[Array], draws: Callable[[int, int, int], Iterator[Array]], rows: int, seed: int
) -> Iterator[list[Array]]:
    """Yield, block by block, the draws (R', N) times each statistics (N, K): a list of sums (R', K)."""
    if not statistics:
        return
    edges = np.cumsum([table.shape[1] for table in statistics])[:-1]
    # Concatenated into one matrix: a single product per block, however many systems and metrics there are.
    joined = np.concatenate(statistics, axis=1, dtype=np.float64)
    with Progress("significance tests", rows, "resamples") as progress:
        for drawn in draws(len(joined), rows, seed):
            yield np.split(drawn @ joined, edges, axis=1)
            progress.update(len(drawn))


def interval_95(scores: Array) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of resampled scores (R,): 2.5 % lie outside at each end, as in sacreBLEU."""
    ordered = np.sort(scores)
    left_out = len(ordered) // 40
    return float(ordered[left_out]), float(ordered[len(ordered) - left_out - 1])


def half_width_95(scores: Array) -> float:
    """Return half the width of the 95 % interval of resampled scores (R,): the number after the ±."""
    low, high = interval_95(scores)
    return (high - low) / 2


def bootstrap_p_value(differences: Array, observed: float) -> float:
    """Return the p-value of an observed difference, from resampled differences (R,).

    As sacreBLEU and Moses compute it: the absolute differences minus their mean approximate those under the null
    hypothesis; p = (number above |observed| + 1) / (R + 1). For a clear difference, this approaches a one-sided test:
    about one in nine equal systems gets p < 0.05, so no verdict rests on it alone.

    One departure from sacreBLEU: if no resample differs at all, the metric cannot tell the systems apart, and p is 1
    (sacreBLEU gives the smallest possible value, 1 / (R + 1)).
    """
    if observed == 0.0 and not differences.any():
        return 1.0
    absolute = np.abs(differences)
    above = np.count_nonzero(absolute - absolute.mean() > abs(observed))
    return float((above + 1) / (len(differences) + 1))


def randomization_p_value(differences: Array, observed: float) -> float:
    """Return the two-sided p-value of an observed difference, from differences after random swaps of outputs.

    differences: absolute, of R trials, (R,). p = (number >= |observed|, plus 1) / (R + 1); Noreen 1989.

    One departure: sacreBLEU counts only larger differences, which for one segment, or two equal systems, gives the
    smallest possible p. If no trial equals the observed difference, both agree.
    """
    # Sums of the same numbers in another order differ in their last bits; they count as equal.
    threshold = abs(observed) - ROUNDING * max(1.0, abs(observed))
    return float((np.count_nonzero(differences >= threshold) + 1) / (len(differences) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method (Holm 1979), in the given order.

    The smallest of n is multiplied by n, the next by n - 1, and so on; none becomes smaller than the previous one.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    ascending = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, index in enumerate(ascending):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def significance_clusters(scores: Sequence[float], draws: Sequence[Array]) -> list[int]:
    """Return each system's cluster, 1 for the best: every system of a cluster is better than all in later clusters.

    Better means that the 95 % interval of the paired difference excludes zero. A line is drawn only where every pair
    across it differs, so its own chance of being wrong is no larger than that of one pair, and no correction over the
    pairs is needed (Berger 1982).

    Args:
        scores: Corpus scores of the systems, higher is better.
        draws: Of each system, the scores (R,) on common resamples, higher is better.
    """
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    differing: set[tuple[int, int]] = set()
    for place, better in enumerate(order):
        for worse in order[place + 1 :]:
            if interval_95(draws[better] - draws[worse])[0] > 0:
                differing.add((better, worse))
    clusters, number = [0] * len(scores), 1
    for place, index in enumerate(order):
        pairs_across = product(order[:place], order[place:])
        if place and all(pair in differing for pair in pairs_across):
            number += 1
        clusters[index] = number
    return clusters
