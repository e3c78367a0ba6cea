"""Scores in words and numbers: of one system a tile each, of several test sets a row each."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.data.languages import english_name
from mtcpo.data.rows import read_segments
from mtcpo.evaluation.document import ERRORS, main_metrics, translations_dir
from mtcpo.report.figures import MAX_CURVES, Figure, delta_figures, humanize, length_figure
from mtcpo.report.side_by_side import Selection, select_rows
from mtcpo.report.wording import (
    FEW_SYSTEMS,
    checked_symptoms,
    decisive_p,
    format_p,
    format_score,
    judge,
    ranked,
    signed_delta,
)


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
    used_for_selection: bool


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
                used_for_selection=bool(described.get("chose_pairs")),
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


def with_command(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what made an evaluation, its command as it is typed."""
    return dict(made) | ({"command": shlex.join(made["command"])} if "command" in made else {})


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage of a run as the page shows it. inputs: (name, sha256). settings: as JSON."""

    name: str
    seconds: str
    figures: str
    inputs: tuple[tuple[str, str], ...]
    settings: str


def stages_of(stamp: Mapping[str, Any]) -> tuple[StageView, ...]:
    """Return the stages of stamp.json: how long each took, what it counted, what it was given."""
    return tuple(
        StageView(
            name=name,
            seconds="" if stage.get("seconds") is None else f"{stage['seconds']:,.1f}",
            figures="; ".join(_counted(stage.get("figures", {}))),
            inputs=tuple(stage.get("inputs", {}).items()),
            settings=json.dumps(stage.get("settings"), ensure_ascii=False, indent=2),
        )
        for name, stage in stamp.get("stages", {}).items()
    )


def _counted(figures: Mapping[str, Any]) -> Iterable[str]:
    """Say what a stage counted; of what there is none of, nothing is said."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            if value:
                yield f"{humanize(name)}: " + ", ".join(_counted(value))
        elif name == "seed":
            yield f"seed {value}"
        elif value:
            yield f"{humanize(name)} {value:,}" if isinstance(value, int) else f"{humanize(name)} {value}"


def flatten(value: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return a nested object as groups of (name, text): the scalars at the top, then one group for each object."""
    groups: dict[str, list[tuple[str, str]]] = {"": []}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            groups[key] = list(_leaves(item, ""))
        else:
            groups[""].append((key, _plain(item)))
    return {name: rows for name, rows in groups.items() if rows}


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(item)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


MAX_FIGURES = 3
"""Metrics that are plotted against the length of the source: one row of the page."""


@dataclass(frozen=True, slots=True)
class SetView:
    """A test set as the page shows it. `entry` is its part of evaluation.json.

    order: all systems as they are listed; others: those but the baseline. first: the metric by which systems are
    ranked; leading: that by which translations are sorted first. by_length: scores by length.
    symptoms: which faults of outputs were counted. errors_by: the first metric that finds errors; they are marked.
    best: the systems with the best score, by metric. gains, changed: for each shown segment JSON of numbers, for the
    page's script.
    """

    entry: Mapping[str, Any]
    order: tuple[str, ...]
    title: str
    others: tuple[str, ...]
    leading: str
    first: str
    best: Mapping[str, frozenset[str]]
    tiles: tuple[Tile, ...]
    figures: tuple[Figure, ...]
    by_length: tuple[Figure, ...]
    symptoms: tuple[str, ...]
    translations: Selection | None
    errors_by: str | None = None
    gains: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@lru_cache(maxsize=256)
def language_name(tag: str) -> str:
    """Return a language's English name, or the tag itself where it names none."""
    try:
        return english_name(tag)
    except UserError:
        return tag


def view_of(entry: Mapping[str, Any], run_dir: Path) -> SetView:
    """Return what the page shows of one test set."""
    baseline, metrics = entry["baseline"], entry["metrics"]
    order = ranked(entry)
    others = tuple(system for system in order if system != baseline)
    leading = "chrf" if "chrf" in metrics else next(iter(metrics))
    segments = translations_dir(run_dir, entry["suite"], f"{entry['src_lang']}-{entry['tgt_lang']}") / "segments.jsonl"
    errors_by = next((name for name, row in entry["systems"][baseline]["metrics"].items() if ERRORS in row), None)
    shown = select_rows(read_segments(segments), baseline, others, leading, errors_by) if segments.exists() else None
    rows = shown.rows if shown is not None else ()
    return SetView(
        entry=entry,
        order=tuple(order),
        title=f"{language_name(entry['src_lang'])} → {language_name(entry['tgt_lang'])}",
        others=others,
        leading=leading,
        first=next(iter(metrics)),
        best={metric: _best(entry, metric) for metric in metrics},
        tiles=tiles_of(entry, others[-1]) if 0 < len(others) <= FEW_SYSTEMS else (),
        figures=delta_figures(entry, others),
        by_length=_by_length(entry, others),
        symptoms=checked_symptoms(entry),
        translations=shown,
        errors_by=errors_by,
        gains=tuple(json.dumps([[o.gains.get(m) for m in metrics] for o in row.outputs[1:]]) for row in rows),
        changed=tuple(json.dumps([int(output.changed) for output in row.outputs[1:]]) for row in rows),
    )


def _by_length(entry: Mapping[str, Any], others: Sequence[str]) -> tuple[Figure, ...]:
    found = (length_figure(entry, _strongest(entry, others, one), one) for one in main_metrics(entry)[:MAX_FIGURES])
    return tuple(figure for figure in found if figure is not None)


def _strongest(entry: Mapping[str, Any], systems: Sequence[str], metric: str) -> list[str]:
    """Return as many systems as a plot can hold beside the baseline, the best ones, as they are listed."""
    sign = -1 if entry["metrics"][metric]["higher_is_better"] else 1
    best = sorted(systems, key=lambda system: sign * entry["systems"][system]["metrics"][metric]["score"])
    return [system for system in systems if system in best[: MAX_CURVES - 1]]


def _best(entry: Mapping[str, Any], metric: str) -> frozenset[str]:
    """Return the systems with the best score; none where there is one system only."""
    scores = {system: row["metrics"][metric]["score"] for system, row in entry["systems"].items()}
    best = (max if entry["metrics"][metric]["higher_is_better"] else min)(scores.values())
    return frozenset(system for system, score in scores.items() if score == best and len(scores) > 1)
