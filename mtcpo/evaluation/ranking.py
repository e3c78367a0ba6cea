"""How systems stand: their scores with intervals and clusters, and each against the baseline, metric by metric.

Dimensions: N segments, K additive statistics of a metric, R resamples or swaps. `tables`: metric -> statistics (N, K)
of each system, see `tallies`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtcpo.data.records import Segment
from mtcpo.evaluation.significance import (
    Array,
    bootstrap_p_value,
    bootstrap_scores,
    half_width_95,
    holm,
    interval_95,
    randomisation_p_value,
    randomised_differences,
    significance_clusters,
)
from mtcpo.metrics.base import Metric

LENGTH_BINS = 5
"""Groups of equally many segments by length of their source, each scored alone."""

TIE = 1e-9
"""Segment scores that differ by less are a tie."""


def resampled(
    metrics: Sequence[Metric], tables: Mapping[str, Sequence[Array]], resamples: int, seed: int
) -> dict[str, list[Array]]:
    """Return the scores (R,) of each system on the resamples, by metric."""
    flat = [(table, metric.corpus_score) for metric in metrics for table in tables[metric.name]]
    found = iter(bootstrap_scores([t for t, _ in flat], [s for _, s in flat], resamples, seed))
    return {metric.name: [next(found) for _ in tables[metric.name]] for metric in metrics}


def swapped(
    metrics: Sequence[Metric], tables: Mapping[str, Sequence[Array]], baseline: int, trials: int, seed: int
) -> dict[str, list[Array]]:
    """Return the absolute differences (R,) of each system to the baseline after swaps of outputs, by metric."""
    flat = [(metric, table) for metric in metrics for table in tables[metric.name]]
    pairs = [(tables[metric.name][baseline], table) for metric, table in flat]
    scorers = [metric.corpus_score for metric, _ in flat]
    found = iter(randomised_differences(pairs, scorers, trials, seed))
    return {metric.name: [next(found) for _ in tables[metric.name]] for metric in metrics}


def score_rows(
    metric: Metric, scores: Sequence[float], draws: Sequence[Array], described: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return of each system its score with interval and cluster. draws: its scores (R,) on the resamples."""
    sign = 1.0 if metric.higher_is_better else -1.0
    clusters = significance_clusters([sign * s for s in scores], [sign * d for d in draws])
    mark = {"chose_pairs": True} if "chose_pairs" in described else {}
    return [
        {"score": score, "ci": half_width_95(drawn), "signature": described["signature"], "cluster": cluster} | mark
        for score, drawn, cluster in zip(scores, draws, clusters, strict=True)
    ]


def comparisons(
    systems: Iterable[str],
    baseline: str,
    scores: Sequence[float],
    draws: Sequence[Array],
    swaps: Sequence[Array],
    alone: Sequence[Array],
) -> dict[str, dict[str, Any]]:
    """Return of each system but the baseline how it compares with it on one metric.

    p_value: paired bootstrap; p_randomisation: the other test; p_holm: the larger of both, corrected over the systems,
    where they are several. wins, ties, losses: segments on which it scores higher, the same, lower.
    """
    names = list(systems)
    base, found = names.index(baseline), dict[str, dict[str, Any]]()
    for at, system in enumerate(names):
        if at == base:
            continue
        delta, differences = scores[at] - scores[base], draws[at] - draws[base]
        low, high = interval_95(differences)
        gains = alone[at] - alone[base]
        found[system] = {
            "delta": delta,
            "p_value": bootstrap_p_value(differences, delta),
            "p_randomisation": randomisation_p_value(swaps[at], delta),
            "low": low,
            "high": high,
            "wins": int((gains > TIE).sum()),
            "ties": int((np.abs(gains) <= TIE).sum()),
            "losses": int((gains < -TIE).sum()),
        }
    if len(found) > 1:
        corrected = holm([max(row["p_value"], row["p_randomisation"]) for row in found.values()])
        for row, p_value in zip(found.values(), corrected, strict=True):
            row["p_holm"] = p_value
    return found


def by_length(
    segments: Sequence[Segment],
    metrics: Sequence[Metric],
    tables: Mapping[str, Sequence[Array]],
    systems: Iterable[str],
) -> list[dict[str, Any]]:
    """Return the scores on groups of segments from the shortest sources to the longest.

    chars: mean length of a group's sources in characters.
    """
    lengths = np.array([len(segment.source) for segment in segments])
    groups = [group for group in np.array_split(np.argsort(lengths, kind="stable"), LENGTH_BINS) if len(group)]
    return [
        {
            "segments": len(group),
            "chars": float(lengths[group].mean()),
            "scores": {
                metric.name: {
                    system: float(metric.corpus_score(table[group].sum(axis=0)))
                    for system, table in zip(systems, tables[metric.name], strict=True)
                }
                for metric in metrics
            },
        }
        for group in groups
    ]
