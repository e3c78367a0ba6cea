"""How systems rank: scores with intervals and clusters, and each system against the baseline, metric by metric.

Dimensions: N segments, K additive statistics of a metric, R resamples or swaps. `statistics`: metric -> statistics
(N, K) of each system, see `evaluation.statistics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
"""Groups of equally many segments by length of their source, each scored alone."""

TIE = 1e-9
"""Segment scores that differ by less are a tie."""


def bootstrap_by_metric(
    metrics: Sequence[Metric], statistics: Mapping[str, Sequence[Array]], resamples: int, seed: int
) -> dict[str, list[Array]]:
    """Return the scores (R,) of each system on the resamples, by metric."""
    tables, scorers = [], []
    for metric in metrics:
        for table in statistics[metric.name]:
            tables.append(table)
            scorers.append(metric.corpus_score)
    # One call for all: every metric and every system then sees the same resamples.
    scores = iter(bootstrap_scores(tables, scorers, resamples, seed))
    return {metric.name: [next(scores) for _ in statistics[metric.name]] for metric in metrics}


def randomize_by_metric(
    metrics: Sequence[Metric], statistics: Mapping[str, Sequence[Array]], baseline: int, trials: int, seed: int
) -> dict[str, list[Array]]:
    """Return the absolute differences (R,) of each system to the baseline after random swaps, by metric.

    baseline: its place among the systems.
    """
    pairs, scorers = [], []
    for metric in metrics:
        tables = statistics[metric.name]
        for table in tables:
            pairs.append((tables[baseline], table))
            scorers.append(metric.corpus_score)
    differences = iter(randomized_differences(pairs, scorers, trials, seed))
    return {metric.name: [next(differences) for _ in statistics[metric.name]] for metric in metrics}


def score_systems(description: MetricDescription, scores: Sequence[float], draws: Sequence[Array]) -> list[MetricScore]:
    """Return each system's score by one metric, with its interval and its cluster.

    scores: corpus scores as printed. draws: the scores (R,) of each system on the resamples.
    """
    sign = float(description.sign)
    clusters = significance_clusters([sign * score for score in scores], [sign * drawn for drawn in draws])
    # Given only where it is true, so that evaluation.json has the field only there.
    mark = {"used_for_selection": True} if description.used_for_selection else {}
    rows = []
    for score, drawn, cluster in zip(scores, draws, clusters, strict=True):
        ci, signature = half_width_95(drawn), description.signature
        rows.append(MetricScore(score=score, ci=ci, signature=signature, cluster=cluster, **mark))
    return rows


def compare_with_baseline(
    systems: Iterable[str],
    baseline: str,
    scores: Sequence[float],
    draws: Sequence[Array],
    swaps: Sequence[Array],
    segment_scores: Sequence[Array],
) -> dict[str, Versus]:
    """Return how each system but the baseline compares with it by one metric.

    Args:
        systems: Their names, in the order of all that follows.
        baseline: The name of one of them.
        scores: Corpus scores as printed.
        draws: Scores (R,) on the resamples.
        swaps: Absolute differences (R,) to the baseline after random swaps.
        segment_scores: Of each segment (N,), higher is better.
    """
    names = list(systems)
    base = names.index(baseline)
    compared: dict[str, Versus] = {}
    for index, system in enumerate(names):
        if index == base:
            continue
        delta, differences = scores[index] - scores[base], draws[index] - draws[base]
        low, high = interval_95(differences)
        gains = segment_scores[index] - segment_scores[base]
        compared[system] = Versus(
            delta=delta,
            p_value=bootstrap_p_value(differences, delta),
            p_randomization=randomization_p_value(swaps[index], delta),
            low=low,
            high=high,
            wins=int((gains > TIE).sum()),
            ties=int((np.abs(gains) <= TIE).sum()),
            losses=int((gains < -TIE).sum()),
        )
    return _corrected(compared) if len(compared) > 1 else compared


def _corrected(compared: Mapping[str, Versus]) -> dict[str, Versus]:
    """Add the p-values corrected for testing several systems."""
    corrected = holm([versus.decisive_p for versus in compared.values()])
    rows = zip(compared.items(), corrected, strict=True)
    return {system: versus.model_copy(update={"p_holm": p_value}) for (system, versus), p_value in rows}


def score_by_length(
    segments: Sequence[Segment],
    metrics: Sequence[Metric],
    statistics: Mapping[str, Sequence[Array]],
    systems: Sequence[str],
) -> tuple[LengthGroup, ...]:
    """Return the scores on groups of segments, from the shortest sources to the longest."""
    lengths = np.array([len(segment.source) for segment in segments])
    groups = []
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
