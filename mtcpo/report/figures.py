"""A plot with its title, and the curves of a training log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtcpo.core.errors import UserError
from mtcpo.data.row_files import read_row_file
from mtcpo.report.svg import Series, line_plot

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


def read_training_log(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of metrics.jsonl by stage, by rising step; of a step that was run twice the later counts."""
    if not path.exists():
        return {}
    stages: dict[str, dict[float, dict[str, Any]]] = {}
    for where, row in read_row_file(path):
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
