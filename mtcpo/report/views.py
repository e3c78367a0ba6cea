"""The evaluation as the page shows it: a view of each test set, and an overview table of all.

The template only lays out these views. To add a plot of a test set, see `report/score_figures.py`; to add a column, add
an entry in `report/columns.py`.
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
from mtcpo.report.score_figures import score_figures
from mtcpo.report.side_by_side import Row, Selection, select_rows
from mtcpo.report.svg import Figure
from mtcpo.report.wording import format_p, format_score, has_few_systems, listed_systems, metric_heading, signed_delta


@dataclass(frozen=True, slots=True)
class Tile:
    """One system against the baseline by one metric, in words and numbers."""

    metric: str
    system: str
    score: str
    baseline_score: str
    delta: str
    p: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class OverviewLine:
    """A system's scores on a test set. number: of the test set on the page, from 1. cells: metric -> text."""

    number: int
    entry: SetEntry
    system: str
    cells: dict[str, Tile]


@dataclass(frozen=True, slots=True)
class Overview:
    """Several test sets in one table. metrics: name -> heading, of all test sets, in order of first occurrence."""

    metrics: dict[str, str]
    lines: tuple[OverviewLine, ...]


@dataclass(frozen=True, slots=True)
class SetView:
    """A test set as the page shows it. entry: its entry of evaluation.json.

    systems: all systems as listed; others: all but the baseline. sort_metric: the metric by which
    translations are sorted first. lead_figure: the plot beside the summary; figures: groups of plots under the table,
    each with a heading or "". best: metric -> systems with the best score. gains, changed: JSON with numbers for each
    shown segment, for the page's script.
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
    """Return a tile for each metric: a system's score, and its difference from the baseline."""
    tiles = []
    for metric in entry.main_metrics:
        description, versus = entry.metrics[metric], entry.versus(system, metric)
        assert versus is not None  # there are no tiles for the baseline
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
    """Return a line for each test set and system; if there are many systems, only for the best by the first metric."""
    metrics: dict[str, str] = {}
    lines = []
    for number, entry in enumerate(entries, start=1):
        for metric in entry.main_metrics:
            # Without the mark of selection metrics: its note is beside each test set, not beside this table.
            metrics[metric] = metric_heading(entry, metric, mark=False)
        others = _listed_others(entry)
        # If there are many systems, nobody would read a table of all of them on all test sets.
        for system in others if has_few_systems(entry) else others[:1]:
            cells = {tile.metric: tile for tile in tiles_of(entry, system)}
            lines.append(OverviewLine(number, entry, system, cells))
    return Overview(metrics, tuple(lines))


def _listed_others(entry: SetEntry) -> tuple[str, ...]:
    others = list(listed_systems(entry))
    others.remove(entry.baseline)
    return tuple(others)


def view_of(entry: SetEntry, run_dir: Path) -> SetView:
    """Return the view of one test set."""
    others = _listed_others(entry)
    # chrF rather than BLEU: it is more reliable for single sentences.
    sort_metric = "chrf" if "chrf" in entry.metrics else entry.first_metric
    translations = _read_translations(entry, run_dir, others, sort_metric)
    rows = () if translations is None else translations.rows
    lead_figure, figures = score_figures(entry, others)
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
    """Return the gains of each system but the baseline, which is the first output, in the order of the metrics."""
    gains: list[list[float | None]] = []
    for output in row.outputs[1:]:
        # None if a segment has no score by a metric: the page's script counts that as no gain.
        gains.append(list(map(output.gains.get, entry.metrics)))
    return gains


def _read_translations(entry: SetEntry, run_dir: Path, others: tuple[str, ...], sort_metric: str) -> Selection | None:
    """Read the segments to show; None if the run directory does not have them."""
    path = translations_dir(run_dir, entry.suite, entry.pair) / "segments.jsonl"
    if not path.exists():
        return None
    return select_rows(read_segments(path), entry.baseline, others, sort_metric, entry.span_metric)


@lru_cache(maxsize=256)
def language_name(tag: str) -> str:
    """Return a language's English name, or the tag itself if it is not a valid one."""
    try:
        return english_name(tag)
    except UserError:
        return tag
