"""What the page shows of the evaluation: a view for each test set, and one table over all of them.

The template only lays out what stands here. A new plot of a test set is a function in `report/score_figures.py` and a
line in `_plots`; a new column is a row in `report/columns.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mtcpo.core.errors import UserError
from mtcpo.data.languages import english_name
from mtcpo.data.rows import read_segments
from mtcpo.evaluation.document import SetEntry, Verdict
from mtcpo.evaluation.results import translations_dir
from mtcpo.report.columns import Column, columns_of
from mtcpo.report.figures import Figure
from mtcpo.report.score_figures import MAX_CURVES, delta_figures, length_figure
from mtcpo.report.side_by_side import Row, Selection, select_rows
from mtcpo.report.wording import format_p, format_score, has_few_systems, listed_systems, metric_heading, signed_delta

MAX_LENGTH_FIGURES = 3
"""Metrics that are plotted against the length of the source: one row of the page."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One metric of one system against the baseline, in words and numbers."""

    metric: str
    system: str
    score: str
    baseline_score: str
    delta: str
    p: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class OverviewLine:
    """What a system reaches on a test set. number: of the test set on the page, from 1. cells: by metric."""

    number: int
    entry: SetEntry
    system: str
    cells: dict[str, Tile]


@dataclass(frozen=True, slots=True)
class Overview:
    """Several test sets in one table. metrics: of all test sets, as they first come, each with its heading."""

    metrics: dict[str, str]
    lines: tuple[OverviewLine, ...]


@dataclass(frozen=True, slots=True)
class SetView:
    """A test set as the page shows it. entry: its part of evaluation.json.

    systems: all systems as they are listed; others: those but the baseline. sort_metric: the metric by which
    translations are sorted first. lead_figure: the plot beside the summary; figures: groups of plots under the table,
    each with a heading or "". best: the systems with the best score, by metric. gains, changed: for each shown segment
    JSON of numbers, for the page's script.
    """

    entry: SetEntry
    title: str
    systems: tuple[str, ...]
    others: tuple[str, ...]
    sort_metric: str
    best: dict[str, frozenset[str]]
    columns: tuple[Column, ...]
    tiles: tuple[Tile, ...]
    lead_figure: Figure | None
    figures: tuple[tuple[str, tuple[Figure, ...]], ...]
    translations: Selection | None
    gains: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def tiles_of(entry: SetEntry, system: str) -> tuple[Tile, ...]:
    """Return one tile a metric: a system's score, and its difference from the baseline."""
    tiles = []
    for metric in entry.main_metrics:
        description, versus = entry.metrics[metric], entry.versus(system, metric)
        assert versus is not None  # no tile is made of the baseline
        tiles.append(
            Tile(
                metric=metric,
                system=system,
                score=format_score(entry.score(system, metric).score, description.percent),
                baseline_score=format_score(entry.score(entry.baseline, metric).score, description.percent),
                delta=signed_delta(versus.delta, description.percent),
                p=format_p(versus.decisive_p),
                verdict=entry.verdict(system, metric),
            )
        )
    return tuple(tiles)


def overview_of(entries: Sequence[SetEntry]) -> Overview:
    """Return a line for each test set and system; of many systems only the best by the first metric has one."""
    metrics: dict[str, str] = {}
    lines = []
    for number, entry in enumerate(entries, start=1):
        for metric in entry.main_metrics:
            # Without the mark of selection metrics: its note is with each test set, and not with this table.
            metrics[metric] = metric_heading(entry, metric, mark=False)
        others = _listed_others(entry)
        # Many systems are ranked, and a table of all of them on all test sets would be read by nobody.
        for system in others if has_few_systems(entry) else others[:1]:
            cells = {tile.metric: tile for tile in tiles_of(entry, system)}
            lines.append(OverviewLine(number, entry, system, cells))
    return Overview(metrics, tuple(lines))


def _listed_others(entry: SetEntry) -> tuple[str, ...]:
    others = list(listed_systems(entry))
    others.remove(entry.baseline)
    return tuple(others)


def view_of(entry: SetEntry, run_dir: Path) -> SetView:
    """Return what the page shows of one test set."""
    others = _listed_others(entry)
    # chrF before BLEU: of single sentences it says more.
    sort_metric = "chrf" if "chrf" in entry.metrics else entry.first_metric
    translations = _read_translations(entry, run_dir, others, sort_metric)
    rows = () if translations is None else translations.rows
    lead_figure, figures = _plots(entry, others)
    return SetView(
        entry=entry,
        title=f"{language_name(entry.src_lang)} → {language_name(entry.tgt_lang)}",
        systems=listed_systems(entry),
        others=others,
        sort_metric=sort_metric,
        best={metric: entry.best(metric) for metric in entry.metrics},
        columns=columns_of(entry),
        tiles=tiles_of(entry, others[-1]) if others and has_few_systems(entry) else (),
        lead_figure=lead_figure,
        figures=figures,
        translations=translations,
        gains=tuple(json.dumps(_gains_of(row, entry)) for row in rows),
        changed=tuple(json.dumps(_changes_of(row)) for row in rows),
    )


def _changes_of(row: Row) -> list[int]:
    """Return 1 for each system but the baseline whose text differs from the baseline's, else 0."""
    return [int(output.changed) for output in row.outputs[1:]]


def _gains_of(row: Row, entry: SetEntry) -> list[list[float | None]]:
    """Return the gains of each system but the baseline, whose output is the first, in the order of the metrics."""
    gains: list[list[float | None]] = []
    for output in row.outputs[1:]:
        # None where a segment has no score by a metric: the page's script counts that as no gain.
        gains.append(list(map(output.gains.get, entry.metrics)))
    return gains


def _read_translations(entry: SetEntry, run_dir: Path, others: tuple[str, ...], sort_metric: str) -> Selection | None:
    """Read the segments that are shown; None where the run directory does not have them."""
    path = translations_dir(run_dir, entry.suite, entry.pair) / "segments.jsonl"
    if not path.exists():
        return None
    return select_rows(read_segments(path), entry.baseline, others, sort_metric, entry.span_metric)


def _plots(
    entry: SetEntry, others: tuple[str, ...]
) -> tuple[Figure | None, tuple[tuple[str, tuple[Figure, ...]], ...]]:
    """Return the plot beside the summary, and the groups of plots under the table: (heading, plots)."""
    deltas = delta_figures(entry, others)
    by_length = []
    for metric in entry.main_metrics[:MAX_LENGTH_FIGURES]:
        figure = length_figure(entry, _strongest(entry, others, metric), metric)
        if figure is not None:
            by_length.append(figure)
    # One plot of differences fits beside the summary; several have a row of their own.
    lead = deltas[0] if len(deltas) == 1 else None
    heading = f"Differences from {entry.baseline}: right is better, bars are 95 % confidence intervals"
    groups: list[tuple[str, tuple[Figure, ...]]] = []
    if deltas and lead is None:
        groups.append((heading, deltas))
    if by_length:
        groups.append(("", tuple(by_length)))
    return lead, tuple(groups)


def _strongest(entry: SetEntry, systems: Sequence[str], metric: str) -> list[str]:
    """Return as many systems as a plot can hold beside the baseline, the best ones, as they are listed."""
    # The baseline has a curve anyway, wherever it ranks.
    ranked = sorted(systems, key=entry.ranked(metric).index)
    return sorted(ranked[: MAX_CURVES - 1], key=systems.index)


@lru_cache(maxsize=256)
def language_name(tag: str) -> str:
    """Return a language's English name, or the tag itself where it names none."""
    try:
        return english_name(tag)
    except UserError:
        return tag
