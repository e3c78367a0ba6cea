"""One value for each candidate from the scores of several metrics: means, ranks, minimum, each a pure function.

Dimensions: M metrics, K candidates of one source. rows[m][k]: the score of candidate k by metric m, higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mtcpo.data.records import Segment
from mtcpo.metrics.registry import candidate_kind, is_computed, metric_name

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Centre:
    """Mean and standard deviation of a metric's scores."""

    mean: float
    deviation: float

    def standardised(self, row: Sequence[float]) -> list[float]:
        """Return (x - mean) / deviation; 0 where all scores are equal: the metric has no opinion."""
        # Up to the rounding of the mean: three times 0.1 have a mean that is not 0.1.
        flat = self.deviation <= 1e-12 * max(1.0, abs(self.mean))
        return [0.0 if flat else (x - self.mean) / self.deviation for x in row]


def centre_of(row: Sequence[float]) -> Centre:
    """Return the mean and standard deviation (of the population) of some scores."""
    mean = math.fsum(row) / len(row)
    return Centre(mean, math.sqrt(math.fsum((x - mean) ** 2 for x in row) / len(row)))


def weighted_mean(rows: Rows, weights: Sequence[float]) -> list[float]:
    """Return each candidate's weighted mean over the metrics. (M, K), (M,) -> (K,)."""
    total = math.fsum(weights)
    columns = zip(*rows, strict=True)
    return [math.fsum(w * x for w, x in zip(weights, column, strict=True)) / total for column in columns]


def zscore(rows: Rows, weights: Sequence[float]) -> list[float]:
    """Return the weighted mean of scores standardised over the candidates of the source."""
    return weighted_mean([centre_of(row).standardised(row) for row in rows], weights)


def rank(rows: Rows, weights: Sequence[float]) -> list[float]:
    """Return the weighted mean of ranks, from 0 (worst of the source) to 1 (best); equals share their mean rank.

    A Borda count: no scale and no outlier of a metric counts, only its order.
    """
    return weighted_mean([_ranks(row) for row in rows], weights)


def _ranks(row: Sequence[float]) -> list[float]:
    if len(row) == 1:
        return [0.0]
    below = [sum(y < x for y in row) for x in row]
    equal = [sum(y == x for y in row) - 1 for x in row]
    return [(b + e / 2) / (len(row) - 1) for b, e in zip(below, equal, strict=True)]


def minimum(rows: Rows, weights: Sequence[float]) -> list[float]:
    """Return each candidate's lowest score: good is what every metric calls good. Weights do not matter."""
    return [min(column) for column in zip(*rows, strict=True)]


@dataclass(frozen=True, slots=True)
class Combination:
    """A way to combine. one_scale: only for metrics on one scale. by_set: scores are standardised over the set first.

    takes_weights: whether the weights of metrics change anything.
    """

    combine: Callable[[Rows, Sequence[float]], list[float]]
    one_scale: bool = False
    by_set: bool = False
    takes_weights: bool = True


COMBINATIONS = {
    "mean": Combination(weighted_mean, one_scale=True),
    "zscore": Combination(zscore),
    "zscore-set": Combination(weighted_mean, by_set=True),
    "rank": Combination(rank),
    "minimum": Combination(minimum, one_scale=True, takes_weights=False),
}


def check_scales(metrics: Sequence[str], combine: str) -> None:
    """Refuse to mix metrics of different scales as they are: the one with the larger numbers would decide alone.

    Raises:
        ValueError: with the way out.
    """
    scales = {metric_name(spec): candidate_kind(spec).scale if is_computed(spec) else "unknown" for spec in metrics}
    if COMBINATIONS[combine].one_scale and len(set(scales.values())) > 1:
        listed = ", ".join(f"{name} ({scale})" for name, scale in scales.items())
        raise ValueError(f"the {combine} of metrics on different scales means little: {listed}; set combine to zscore")


class SetStatistics:
    """Mean and deviation of each metric over all candidates of a language pair, gathered in one pass (Welford 1962).

    Pairs of languages are kept apart: metrics are not calibrated from one to the other.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._sums: dict[tuple[str, str, str], tuple[int, float, float]] = {}

    def add(self, segment: Segment) -> None:
        """Count the scores of a segment's candidates."""
        for candidate in segment.candidates:
            for name in self._names:
                key = segment.src_lang, segment.tgt_lang, name
                count, mean, squares = self._sums.get(key, (0, 0.0, 0.0))
                delta = candidate.scores[name] - mean
                mean += delta / (count + 1)
                self._sums[key] = count + 1, mean, squares + delta * (candidate.scores[name] - mean)

    def centres(self, src_lang: str, tgt_lang: str) -> dict[str, Centre]:
        """Return each metric's centre for a language pair that was added."""
        found = {}
        for name in self._names:
            count, mean, squares = self._sums[src_lang, tgt_lang, name]
            found[name] = Centre(mean, math.sqrt(squares / count))
        return found


def combined(
    scores: Mapping[str, Sequence[float]],
    combine: str,
    weights: Mapping[str, float],
    centres: Mapping[str, Centre],
) -> list[float]:
    """Return each candidate's value. scores[metric][candidate]; a metric without a weight has 1.

    centres: of each metric over the set, for combinations by set.
    """
    how = COMBINATIONS[combine]
    rows = [list(row) for row in scores.values()]
    if how.by_set:
        rows = [centres[name].standardised(row) for name, row in scores.items()]
    return how.combine(rows, [weights.get(name, 1.0) for name in scores])
