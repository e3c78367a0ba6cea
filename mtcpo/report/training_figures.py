"""Plots of training: the curves of each stage, from metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import read_row_file
from mtcpo.report.svg import Figure, Series, line_plot

PANELS = (
    ("Loss", ("loss", "eval_loss")),
    ("Negative log-likelihood, chosen", ("nll_loss", "eval_nll_loss")),
    ("Reward margin", ("rewards/margins", "eval_rewards/margins")),
    ("Reward accuracy", ("rewards/accuracies", "eval_rewards/accuracies")),
    ("Rewards", ("rewards/chosen", "rewards/rejected")),
    ("Log-probabilities", ("logps/chosen", "logps/rejected")),
)
"""Training curves: title, and the logged values that share the plot. To add a plot, add a row."""


def read_training_log(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return stage -> rows of metrics.jsonl in ascending order of steps; {} if there is no such file.

    A row has `step`, and `stage` if there are several; rows of the same step are merged.

    Raises:
        UserError: a row has no step.
    """
    if not path.exists():
        return {}
    stages: dict[str, dict[float, dict[str, Any]]] = {}
    for where, row in read_row_file(path):
        step = row.get("step")
        if not isinstance(step, (int, float)) or isinstance(step, bool):
            raise UserError(f"{where}: this row of the training log has no numeric 'step'")
        rows = stages.setdefault(str(row.get("stage", "training")), {})
        # Training and evaluation log separate rows for a step. After an interruption a step may be logged again: the
        # later values are those of the model that was kept.
        rows[float(step)] = rows.get(float(step), {}) | row
    by_stage = {}
    for stage, rows in stages.items():
        by_stage[stage] = [rows[step] for step in sorted(rows)]
    return by_stage


def training_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Plot the curves of one training stage; NaN and infinite values are left out, and their number is shown."""
    figures = []
    for title, names in PANELS:
        curves, not_finite = [], 0
        for name in names:
            points, lost = _logged_points(rows, name)
            not_finite += lost
            if points:
                curves.append(Series(name, points))
        if curves:
            note = f"{not_finite} values are not finite and not drawn" if not_finite else ""
            # A single curve needs no legend: the title says what it is.
            legend = tuple(map(attrgetter("name"), curves)) if len(curves) > 1 else ()
            figures.append(Figure(title, line_plot(curves, f"{title} by step"), legend, note))
    return figures


def _logged_points(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[tuple[float, float]], int]:
    """Return (step, value) of the rows with a finite value, and the number of rows with NaN or infinity."""
    points, not_finite = [], 0
    for row in rows:
        # Most rows lack the value: training and evaluation log different ones at different steps.
        value = row.get(name)
        if not isinstance(value, (int, float)):
            continue
        if math.isfinite(value):
            points.append((float(row["step"]), float(value)))
        else:
            not_finite += 1
    return points, not_finite
