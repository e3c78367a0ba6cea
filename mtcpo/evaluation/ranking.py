"""Rank systems, metric by metric: scores with intervals and clusters, and comparisons with the baseline.

Dimensions: N segments, K additive statistics of a metric, R resamples or swaps. See `evaluation.statistics` for the
statistics, and `evaluation.significance` for the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtcpo.data.records import Segment
from mtcpo.evaluation.document import LengthGroup, MetricDescription, MetricScore, Versus
from mtcpo.evaluation.significance import (
    Array,
    bootstrap_p_value,
    bootstrap_scores,
    half_width_95,
    holm,
    interval_95,
    randomization_p_value,
    randomized_differences,
    significance_clusters,
)
from mtcpo.metrics.base import Metric

LENGTH_BINS = 5
"""Number of equally large groups of segments by source length, each scored separately."""

TIE = 1e-9
"""Segment scores that differ by less are a tie."""


@dataclass(frozen=True, slots=True)
class Resampled:
    """One metric's statistics and resampled scores for all systems, in their order.

    Of each system: statistics (N, K); draws: corpus scores (R,) on bootstrap resamples; swaps: absolute differences
    (R,) from the baseline after random swaps of outputs.
    """

    statistics: Sequence[Array]
    draws: Sequence[Array]
    swaps: Sequence[Array]


def resample(
    metrics: Sequence[Metric], statistics: Mapping[str, Sequence[Array]], baseline: int, resamples: int, seed: int
) -> dict[str, Resampled]:
    """Return metric -> scores and differences; all metrics see the same resamples and swaps.

    Args:
        metrics: The metrics, in order.
        statistics: Metric -> statistics (N, K) of each system.
        baseline: Index of the baseline among the systems.
        resamples: R, the number of resamples and of random swaps.
        seed: For both.
    """
    tables, pairs, scorers = [], [], []
    for metric in metrics:
        for table in statistics[metric.name]:
            tables.append(table)
            pairs.append((statistics[metric.name][baseline], table))
            scorers.append(metric.corpus_score)
    # One call for all: every metric and system then sees the same resamples, with a single matrix product.
    draws = bootstrap_scores(tables, scorers, resamples, seed)
    swaps = randomized_differences(pairs, scorers, resamples, seed)
    resampled: dict[str, Resampled] = {}
    start = 0
    for metric in metrics:
        end = start + len(statistics[metric.name])
        resampled[metric.name] = Resampled(statistics[metric.name], draws[start:end], swaps[start:end])
        start = end
    return resampled


def score_systems(description: MetricDescription, scores: Sequence[float], resampled: Resampled) -> list[MetricScore]:
    """Return each system's score by one metric, with its confidence interval and cluster.

    scores: corpus scores as printed.
    """
    # Clusters need higher-is-better scores; TER is lower-is-better.
    turned_scores = [description.sign * score for score in scores]
    turned_draws = [description.sign * drawn for drawn in resampled.draws]
    clusters = significance_clusters(turned_scores, turned_draws)
    # Set only if true: evaluation.json has the field only for such metrics.
    mark = {"used_for_selection": True} if description.used_for_selection else {}
    rows = []
    for score, drawn, cluster in zip(scores, resampled.draws, clusters, strict=True):
        ci, signature = half_width_95(drawn), description.signature
        rows.append(MetricScore(score=score, ci=ci, signature=signature, cluster=cluster, **mark))
    return rows


def compare_with_baseline(
    systems: Iterable[str],
    baseline: str,
    scores: Sequence[float],
    resampled: Resampled,
    segment_scores: Sequence[Array],
) -> dict[str, Versus]:
    """Return system -> comparison with the baseline by one metric, without the baseline itself.

    Args:
        systems: Their names; the other arguments are in this order.
        baseline: The baseline's name.
        scores: Corpus scores as printed.
        resampled: Scores and differences on resamples.
        segment_scores: Segment scores (N,) of each system, higher is better.
    """
    names = list(systems)
    base = names.index(baseline)
    compared: dict[str, Versus] = {}
    for index, system in enumerate(names):
        if index == base:
            continue
        delta = scores[index] - scores[base]
        # Paired: both systems were scored on the same resamples.
        differences = resampled.draws[index] - resampled.draws[base]
        low, high = interval_95(differences)
        gains = segment_scores[index] - segment_scores[base]
        compared[system] = Versus(
            delta=delta,
            p_value=bootstrap_p_value(differences, delta),
            p_randomization=randomization_p_value(resampled.swaps[index], delta),
            low=low,
            high=high,
            wins=int((gains > TIE).sum()),
            ties=int((np.abs(gains) <= TIE).sum()),
            losses=int((gains < -TIE).sum()),
        )
    # A single comparison needs no correction and has no p_holm in evaluation.json.
    return _corrected(compared) if len(compared) > 1 else compared


def _corrected(compared: Mapping[str, Versus]) -> dict[str, Versus]:
    """Add the p-values corrected for testing several systems."""
    corrected = holm([versus.decisive_p for versus in compared.values()])
    rows: dict[str, Versus] = {}
    for (system, versus), p_value in zip(compared.items(), corrected, strict=True):
        rows[system] = versus.model_copy(update={"p_holm": p_value})
    return rows


def score_by_length(
    segments: Sequence[Segment],
    metrics: Sequence[Metric],
    statistics: Mapping[str, Sequence[Array]],
    systems: Sequence[str],
) -> tuple[LengthGroup, ...]:
    """Return the corpus scores on groups of segments, from the shortest sources to the longest."""
    lengths = np.array([len(segment.source) for segment in segments])
    groups = []
    # A stable sort keeps ties in order, so that the groups are the same on every machine.
    for rows in np.array_split(np.argsort(lengths, kind="stable"), LENGTH_BINS):
        if not len(rows):  # fewer segments than groups
            continue
        scores: dict[str, dict[str, float]] = {}
        for metric in metrics:
            scores[metric.name] = {}
            for system, table in zip(systems, statistics[metric.name], strict=True):
                scores[metric.name][system] = float(metric.corpus_score(table[rows].sum(axis=0)))
        groups.append(LengthGroup(segments=len(rows), chars=float(lengths[rows].mean()), scores=scores))
    return tuple(groups)
