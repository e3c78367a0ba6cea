"""Combine the scores of several metrics into one value for each candidate of a source.

Dimensions: M metrics, K candidates of one source. rows[m][k] is the score of candidate k by metric m, higher is better;
weights[m] is the weight of metric m, above 0. To add a combination, write a function and add a row to COMBINATIONS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mtcpo.data.records import Segment

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and population standard deviation of a set of scores."""

    mean: float
    deviation: float

    def standardize(self, row: Sequence[float]) -> list[float]:
        """Return (x - mean) / deviation of each score; all 0 if the scores are equal: the metric has no preference."""
        # A tolerance, because the mean is rounded: the mean of 0.1, 0.1, 0.1 is not exactly 0.1, nor the deviation 0.
        if self.deviation <= 1e-12 * max(1.0, abs(self.mean)):
            return [0.0] * len(row)
        return [(x - self.mean) / self.deviation for x in row]


def moments_of(row: Sequence[float]) -> Moments:
    """Return the mean and population standard deviation of one or more scores."""
    mean = math.fsum(row) / len(row)
    return Moments(mean, math.sqrt(math.fsum((x - mean) ** 2 for x in row) / len(row)))


def weighted_mean(rows: Rows, weights: Sequence[float]) -> list[float]:
    """Return each candidate's weighted mean over the metrics. (M, K), (M,) -> (K,)."""
    total = math.fsum(weights)
    # fsum rounds once, at the end: the order in which metrics are listed must not break ties.
    means = []
    for column in zip(*rows, strict=True):
        weighted = (weight * score for weight, score in zip(weights, column, strict=True))
        means.append(math.fsum(weighted) / total)
    return means


def zscore(rows: Rows, weights: Sequence[float]) -> list[float]:
    """Return the weighted mean of scores standardized over the candidates of the source. (M, K), (M,) -> (K,)."""
    return weighted_mean([moments_of(row).standardize(row) for row in rows], weights)


def rank(rows: Rows, weights: Sequence[float]) -> list[float]:
    """Return the weighted mean of ranks, from 0 (worst of the source) to 1 (best); equal scores share their mean rank.

    This is a Borda count: only each metric's order matters, not its scale or outliers. (M, K), (M,) -> (K,).
    """
    return weighted_mean([_ranks(row) for row in rows], weights)


def _ranks(row: Sequence[float]) -> list[float]:
    if len(row) == 1:
        return [0.0]
    # Quadratic, but a source has only a handful of candidates.
    ranks = []
    for score in row:
        lower = sum(other < score for other in row)
        equal = row.count(score) - 1
        ranks.append((lower + equal / 2) / (len(row) - 1))
    return ranks


def minimum(rows: Rows, weights: Sequence[float]) -> list[float]:
    """Return each candidate's lowest score: all metrics must find it good. Weights have no effect. (M, K) -> (K,)."""
    return list(map(min, zip(*rows, strict=True)))


@dataclass(frozen=True, slots=True)
class Combination:
    """A way to turn the scores of several metrics into one value.

    combine: (rows, weights) -> values. title: the value in words, for help and docs. one_scale: metrics must share one
    scale. by_set: scores are standardized over the whole set first. takes_weights: whether weights change anything.
    """

    combine: Callable[[Rows, Sequence[float]], list[float]]
    title: str
    one_scale: bool = False
    by_set: bool = False
    takes_weights: bool = True


# The first is the default.
COMBINATIONS = {
    "mean": Combination(weighted_mean, "the mean of the scores; only for metrics on the same scale", one_scale=True),
    "zscore": Combination(zscore, "the mean of scores standardized over the candidates of the source"),
    "zscore-set": Combination(
        weighted_mean,
        "the mean of scores standardized over all candidates of the language pair, so that sources whose candidates "
        "hardly differ stay tied",
        by_set=True,
    ),
    "rank": Combination(rank, "the mean of ranks within the source, 0 to 1"),
    "minimum": Combination(
        minimum, "the lowest score; only for metrics on the same scale", one_scale=True, takes_weights=False
    ),
}


class SetStatistics:
    """Mean and deviation of each metric over all candidates of a language pair, gathered in one pass (Welford 1962).

    Language pairs are kept apart: metrics are not calibrated across languages.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._sums: dict[tuple[str, str, str], tuple[int, float, float]] = {}

    def add(self, segment: Segment) -> None:
        """Add the scores of a segment's candidates."""
        for candidate in segment.candidates:
            for name in self._names:
                # Welford's update: a sum of squares minus the square of the sum would lose all digits if scores differ
                # little.
                key = segment.src_lang, segment.tgt_lang, name
                count, mean, squares = self._sums.get(key, (0, 0.0, 0.0))
                delta = candidate.scores[name] - mean
                mean += delta / (count + 1)
                self._sums[key] = count + 1, mean, squares + delta * (candidate.scores[name] - mean)

    def moments(self, src_lang: str, tgt_lang: str) -> dict[str, Moments]:
        """Return metric -> moments of a language pair; at least one of its candidates was added."""
        by_metric = {}
        for name in self._names:
            count, mean, squares = self._sums[src_lang, tgt_lang, name]
            by_metric[name] = Moments(mean, math.sqrt(squares / count))
        return by_metric


def combine_scores(
    scores: Mapping[str, Sequence[float]],
    combine: str,
    weights: Mapping[str, float],
    set_moments: Mapping[str, Moments],
) -> list[float]:
    """Return the value of each candidate, shape (K,). scores: metric -> (K,); weights default to 1.

    set_moments: metric -> moments over the whole set, for combinations with `by_set`.
    """
    combination = COMBINATIONS[combine]
    rows = list(scores.values())
    # zscore standardizes over the source by itself; the moments of the whole set must come from the caller.
    if combination.by_set:
        rows = [set_moments[name].standardize(row) for name, row in scores.items()]
    return combination.combine(rows, [weights.get(name, 1.0) for name in scores])
