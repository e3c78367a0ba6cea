"""Which plots a report has: differences to the baseline, training curves, and what the preference pairs are like."""

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
from mtcpo.evaluation.document import main_metrics
from mtcpo.report.svg import Interval, Series, bars, histogram, interval_plot, line_plot
from mtcpo.report.wording import FEW_SYSTEMS, decisive_p, format_p, judge, metric_title

BINS = 24
MAX_BARS = 9

MAX_CURVES = 4
"""Systems in one plot: the baseline and three, as many as the style sheet has colours for."""

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


def delta_figures(entry: Mapping[str, Any], others: Sequence[str]) -> tuple[Figure, ...]:
    """Plot the differences to the baseline, turned so that right is better: by metric, or by system if many."""
    baseline = entry["baseline"]
    if len(others) <= FEW_SYSTEMS:
        groups = [(f"{system} against {baseline}", [(system, m) for m in main_metrics(entry)]) for system in others]
    else:
        groups = [(metric_title(m), [(system, m) for system in others]) for m in main_metrics(entry)]
    figures = []
    for title, members in groups:
        rows = [_interval(entry, system, metric, len(others) <= FEW_SYSTEMS) for system, metric in members]
        note = "right is better; bars are 95 % intervals" if len(groups) == 1 else ""
        figures.append(Figure(title, interval_plot(rows, f"Differences to {baseline}: {title}"), note=note))
    return tuple(figures)


def _interval(entry: Mapping[str, Any], system: str, metric: str, by_metric: bool) -> Interval:
    described = entry["metrics"][metric]
    versus = entry["systems"][system]["versus"][entry["baseline"]][metric]
    # One axis for all metrics: those of 0 to 1 in hundredths, and lower-is-better ones turned round.
    factor = (1 if described["percent"] else 100) * (1 if described["higher_is_better"] else -1)
    low, high = sorted((factor * versus["low"], factor * versus["high"]))
    label = (metric_title(metric) + ("" if described["percent"] else " ×100")) if by_metric else system
    return Interval(
        label=label,
        low=low,
        middle=factor * versus["delta"],
        high=high,
        tone=judge(versus, described["higher_is_better"]),
        note=format_p(decisive_p(versus)),
    )


def length_figure(entry: Mapping[str, Any], others: Sequence[str], metric: str) -> Figure | None:
    """Plot a metric against the length of the sources; None where the evaluation does not have it, or for one group."""
    groups = entry.get("by_length", [])
    systems = [entry["baseline"], *others][:MAX_CURVES]
    if len({group["chars"] for group in groups}) < 2:
        return None
    curves = [
        Series(system, [(group["chars"], group["scores"][metric][system]) for group in groups]) for system in systems
    ]
    title = f"{metric_title(metric)} by length of the source"
    sizes = sorted({group["segments"] for group in groups})
    size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    note = f"characters of the source; {len(groups)} groups of {size} segments"
    return Figure(title, line_plot(curves, title), tuple(systems) if others else (), note)


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


def humanize(reason: str) -> str:
    """Return the reason of a drop as it is read on a page."""
    return reason.replace("_", " ")


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
