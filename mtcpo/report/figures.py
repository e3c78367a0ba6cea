"""Plots of training and of training pairs: curves by step, and what the preference pairs are like."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mtcpo.core.errors import UserError
from mtcpo.core.files import read_json_lines
from mtcpo.data.records import triplet_from_json
from mtcpo.report.svg import Series, bars, histogram, line_plot
from mtcpo.report.wording import humanize

BINS = 24
MAX_BARS = 9

PANELS = (
    ("Loss", ("loss", "eval_loss")),
    ("Negative log-likelihood, chosen", ("nll_loss", "eval_nll_loss")),
    ("Reward margin", ("rewards/margins", "eval_rewards/margins")),
    ("Reward accuracy", ("rewards/accuracies", "eval_rewards/accuracies")),
    ("Rewards", ("rewards/chosen", "rewards/rejected")),
    ("Log-probabilities", ("logps/chosen", "logps/rejected")),
)
"""Training curves: title, and the logged values that share its axes."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its title, the names of its curves where they are several, and a note."""

    title: str
    svg: Markup
    legend: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Of each preference pair its margin, and characters of chosen / characters of rejected."""

    margins: array[float]
    length_ratios: array[float]


def read_training_log(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of metrics.jsonl by stage, by rising step; of a step that was run twice the later counts."""
    if not path.exists():
        return {}
    stages: dict[str, dict[float, dict[str, Any]]] = {}
    for where, row in read_json_lines(path):
        step = row.get("step")
        if not isinstance(step, (int, float)) or isinstance(step, bool):
            raise UserError(f"{where}: no number 'step' in this row of the training log")
        rows = stages.setdefault(str(row.get("stage", "training")), {})
        rows[float(step)] = rows.get(float(step), {}) | row
    return {stage: [rows[step] for step in sorted(rows)] for stage, rows in stages.items()}


def training_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Plot the curves of one training stage; values that are not finite are left out and counted."""
    figures = []
    for title, names in PANELS:
        series, lost = [], 0
        for name in names:
            points = [(float(row["step"]), float(row[name])) for row in rows if isinstance(row.get(name), (int, float))]
            finite = [(x, y) for x, y in points if math.isfinite(y)]
            lost += len(points) - len(finite)
            series += [Series(name, finite)] if finite else []
        if series:
            note = f"{lost} values are not finite and not drawn" if lost else ""
            legend = tuple(one.name for one in series) if len(series) > 1 else ()
            figures.append(Figure(title, line_plot(series, f"{title} by step"), legend, note))
    return figures


def pair_figures(prefs: Mapping[str, Any], pairs: Pairs | None) -> list[Figure]:
    """Plot what prefs-report.json and, where they are there, the pairs themselves say of the preference pairs."""
    figures = []
    if "kept" in prefs:
        rows = [("kept", float(prefs["kept"]), "main")]
        rows += [(humanize(reason), float(count), "same") for reason, count in prefs.get("dropped", {}).items()]
        figures.append(Figure("Kept and dropped sources", bars(rows, "Sources kept, and dropped by reason")))
    if pairs is not None and pairs.margins:
        title = "Margin: score of chosen minus rejected"
        mean = f"mean {math.fsum(pairs.margins) / len(pairs.margins):.3g}"
        figures.append(Figure(title, histogram(*binned(pairs.margins, 0.0), title), note=mean))
    if pairs is not None and pairs.length_ratios:
        title = "Length ratio, chosen / rejected"
        note = length_note(prefs.get("lengths", {}))
        figures.append(Figure(title, histogram(*binned(pairs.length_ratios, None), title), note=note))
    for side in ("chosen", "rejected"):
        systems = prefs.get("systems", {}).get(side, {})
        if len(systems) > 1:
            most = [(system, float(count), "main") for system, count in list(systems.items())[:MAX_BARS]]
            note = f"the first {MAX_BARS} of {len(systems)}" if len(systems) > MAX_BARS else ""
            figures.append(Figure(f"Systems of the {side}", bars(most, f"Systems of the {side}"), note=note))
    return figures


def length_note(lengths: Mapping[str, Any]) -> str:
    """Say how long chosen and rejected are; a length bias in the pairs is copied into the model's output."""
    if not lengths:
        return ""
    note = (
        f"chosen are longer in {100 * lengths['chosen_longer_share']:.0f} % and shorter in "
        f"{100 * lengths['rejected_longer_share']:.0f} % of the pairs; means {lengths['chosen_mean_chars']:.1f} and "
        f"{lengths['rejected_mean_chars']:.1f} characters"
    )
    correlation = lengths.get("length_score_correlation")
    return note if correlation is None else f"{note}; among candidates, length and score correlate by {correlation:.2f}"


def read_pairs(path: Path) -> Pairs | None:
    """Read margins and length ratios of the triplets of prefs.jsonl; None where there is no such file."""
    if not path.exists():
        return None
    pairs = Pairs(array("d"), array("d"))
    for where, row in read_json_lines(path):
        triplet = triplet_from_json(row, where)
        pairs.margins.append(triplet.margin)
        if triplet.rejected.strip():
            pairs.length_ratios.append(len(triplet.chosen.strip()) / len(triplet.rejected.strip()))
    return pairs


def binned(values: Sequence[float], low: float | None) -> tuple[list[float], list[float]]:
    """Return edges and counts of a histogram; the most extreme hundredth above (and below) joins the last bin.

    low: where the first bin starts; None: at the lowest hundredth.
    """
    figures = np.asarray(values)
    first = float(np.quantile(figures, 0.01)) if low is None else low
    last = float(np.quantile(figures, 0.99))
    if last - first < 1e-9:
        first, last = first - 0.5, first + 0.5
    counts, edges = np.histogram(figures.clip(first, last), bins=BINS, range=(first, last))
    return edges.tolist(), counts.astype(float).tolist()
