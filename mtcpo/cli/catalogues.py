"""Catalogues in `--help`, below the options: the names that an option accepts, with a line about each.

They are read from the tables of the package, which are imported only when help is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Rows = list[tuple[str, str]]


class Command(click.Command):
    """A command whose help ends with catalogues. catalogues: heading -> function that returns names and meanings."""

    def __init__(self, *args: Any, catalogues: dict[str, Callable[[], Rows]] | None = None, **kwargs: Any) -> None:
        """Accept click.Command's arguments, and the catalogues."""
        super().__init__(*args, **kwargs)
        self.catalogues = catalogues or {}

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the catalogues, each as a section."""
        # Called here, not where the command is declared: the tables import numpy and more.
        for heading, rows in self.catalogues.items():
            with formatter.section(heading):
                formatter.write_dl(rows())


def metrics() -> Rows:
    """Metrics of translations against references, or of translations alone."""
    from mtcpo.metrics.registry import METRICS

    # A checkpoint of one's own goes after the name; lexical metrics have none.
    rows = []
    for name, kind in METRICS.items():
        rows.append((name, _line(kind.help, kind.paper)))
        if kind.checkpoint:
            rows.append((f"{name}:DIR", f"{kind.title} with another checkpoint: a directory or a hub name"))
    return [*rows, ("NAME=python:MODULE:NAME", "your own metric; needs --allow-code")]


def candidate_metrics() -> Rows:
    """Metrics that can choose among candidates."""
    others = [
        ("mbr:METRIC", "mean utility against all candidates of the source (minimum Bayes risk); needs no reference"),
        ("NAME", "scores with this name that the candidates already have"),
    ]
    return [*metrics(), *others]


def selections() -> Rows:
    """Ways to select pairs among scored candidates."""
    from mtcpo.preferences.selections import SELECTIONS

    rows = [(name, _line(selection.title, selection.paper)) for name, selection in SELECTIONS.items()]
    return [*rows, ("python:MODULE:NAME", "your own function; needs --allow-code")]


def combinations() -> Rows:
    """Ways to combine several scores into one."""
    from mtcpo.preferences.combining import COMBINATIONS

    return [(name, combination.title) for name, combination in COMBINATIONS.items()]


def filters() -> Rows:
    """Filters: settings that leave out candidates or pairs."""
    from mtcpo.preferences.filters import CANDIDATE_FILTERS, PAIR_FILTERS

    rows = []
    for row in (*CANDIDATE_FILTERS.values(), *PAIR_FILTERS.values()):
        # Filters without a setting are always on.
        if row.setting:
            rows.append((row.setting, row.title))
    return rows


def losses() -> Rows:
    """Losses to train with."""
    from mtcpo.training.losses import LOSSES

    rows = [(name, _line(loss.help, loss.paper and f"arXiv {loss.paper}")) for name, loss in LOSSES.items()]
    return [*rows, ("python:MODULE:NAME", "your own function; needs --allow-code")]


def models() -> Rows:
    """Short names of models, with their checkpoints on the hub."""
    from mtcpo.models.families import FAMILIES

    # Families without an alias are used by hub name or directory.
    rows = []
    for family in FAMILIES:
        if family.alias:
            rows.append((family.alias, _line(f"{family.checkpoint}: {family.help}", family.paper)))
    return rows


def _line(text: str, paper: str) -> str:
    return f"{text} ({paper})" if paper else text
