"""Columns beside the metrics that the terminal's table and the page share: one row each in COLUMNS.

A new column is a new row here. What it shows must be a field of `SystemScores`; a new one is computed in
`evaluation/diagnostics.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtcpo.evaluation.document import DIAGNOSTICS, SetEntry, SystemScores
from mtcpo.report.wording import format_count, humanize


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table of systems. cell: what a system's row shows in it."""

    title: str
    cell: Callable[[SystemScores], str]


def _length(scores: SystemScores) -> str:
    return "–" if scores.length_ratio is None else f"{scores.length_ratio:.2f}"


def _count(diagnostic: str) -> Column:
    return Column(humanize(diagnostic), lambda scores: format_count(scores.diagnostic(diagnostic)))


COLUMNS = {"length": Column("length", _length), **{name: _count(name) for name in DIAGNOSTICS}}


def columns_of(entry: SetEntry) -> tuple[Column, ...]:
    """Return the columns of a test set: all but the diagnostics that were checked for no system."""
    unchecked = set(DIAGNOSTICS) - set(entry.diagnostics)
    return tuple(column for name, column in COLUMNS.items() if name not in unchecked)
