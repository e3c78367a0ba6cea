"""Scores in words and numbers: of one system a tile each, of several test sets a row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtcpo.tables import FEW_SYSTEMS, decisive_p, format_p, format_score, judge, ranked, signed_delta
from mtcpo.tallies import main_metrics


@dataclass(frozen=True, slots=True)
class Tile:
    """One metric of one system against the baseline, in words and numbers."""

    metric: str
    system: str
    score: str
    baseline_score: str
    delta: str
    p: str
    verdict: str
    chose_pairs: bool


@dataclass(frozen=True, slots=True)
class Line:
    """What a system reaches on a test set. number: of the test set on the page, from 1. cells: by metric."""

    number: int
    entry: Mapping[str, Any]
    system: str
    cells: Mapping[str, Tile]


@dataclass(frozen=True, slots=True)
class Overview:
    """Several test sets in one table. metrics: all, as they first come, each with whether higher is better."""

    metrics: Mapping[str, bool]
    lines: tuple[Line, ...]


def tiles_of(entry: Mapping[str, Any], system: str) -> tuple[Tile, ...]:
    """Return one tile a metric: a system's score, and its difference to the baseline."""
    baseline = entry["baseline"]
    tiles = []
    for metric in main_metrics(entry):
        described = entry["metrics"][metric]
        versus = entry["systems"][system]["versus"][baseline][metric]
        scores = [entry["systems"][name]["metrics"][metric]["score"] for name in (system, baseline)]
        tiles.append(
            Tile(
                metric=metric,
                system=system,
                score=format_score(scores[0], described["percent"]),
                baseline_score=format_score(scores[1], described["percent"]),
                delta=signed_delta(versus["delta"], described["percent"]),
                p=format_p(decisive_p(versus)),
                verdict=judge(versus, described["higher_is_better"]),
                chose_pairs=bool(described.get("chose_pairs")),
            )
        )
    return tuple(tiles)


def overview_of(entries: Sequence[Mapping[str, Any]]) -> Overview:
    """Return a line for each test set and system; of many systems only the best by the first metric has one."""
    metrics = {name: entry["metrics"][name]["higher_is_better"] for entry in entries for name in main_metrics(entry)}
    lines = []
    for number, entry in enumerate(entries, start=1):
        others = [system for system in ranked(entry) if system != entry["baseline"]]
        for system in others if len(others) <= FEW_SYSTEMS else others[:1]:
            lines.append(Line(number, entry, system, {tile.metric: tile for tile in tiles_of(entry, system)}))
    return Overview(metrics, tuple(lines))
