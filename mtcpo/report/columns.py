"""Columns other than metrics, shared by the terminal's table and the page: one entry each in COLUMNS.

To add a column, add an entry. It shows a field of `SystemScores`; new fields are computed in
`evaluation/diagnostics.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtcpo.evaluation.document import DIAGNOSTICS, SetEntry, SystemScores
from mtcpo.report.wording import format_count, humanize


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table of systems. cell: system's scores -> text of its cell."""

    title: str
    cell: Callable[[SystemScores], str]


def _length(scores: SystemScores) -> str:
    return "–" if scores.length_ratio is None else f"{scores.length_ratio:.2f}"


def _count(diagnostic: str) -> Column:
    return Column(humanize(diagnostic), lambda scores: format_count(scores.diagnostic(diagnostic)))


COLUMNS = {"length": Column("length", _length), **{name: _count(name) for name in DIAGNOSTICS}}


def columns_of(entry: SetEntry) -> tuple[Column, ...]:
    """Return the columns of a test set: all but the diagnostics that were not checked for any system."""
    unchecked = set(DIAGNOSTICS) - set(entry.diagnostics)
    return tuple(column for name, column in COLUMNS.items() if name not in unchecked)
