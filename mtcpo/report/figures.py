"""Which plots a report has of an evaluation and of training: differences to the baseline, and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtcpo.core.errors import UserError
from mtcpo.core.files import read_json_lines
from mtcpo.evaluation.document import main_metrics
from mtcpo.report.svg import Interval, Series, interval_plot, line_plot
from mtcpo.report.wording import FEW_SYSTEMS, decisive_p, format_p, judge, metric_title

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


def humanize(reason: str) -> str:
    """Return the reason of a drop as it is read on a page."""
    return reason.replace("_", " ")
