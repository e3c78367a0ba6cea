"""Plots of a test set's scores: differences from the baseline with their intervals, and scores by source length.

To add a plot, write a function here and call it in `score_figures`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtcpo.evaluation.document import SetEntry
from mtcpo.report.svg import Figure, Interval, Series, interval_plot, line_plot
from mtcpo.report.wording import format_p, has_few_systems, metric_title

MAX_CURVES = 4
"""Maximum number of systems in a plot, baseline included: as many as the style sheet has colors for."""

MAX_LENGTH_FIGURES = 3
"""Maximum number of metrics plotted against source length: one row of the page."""


def score_figures(
    entry: SetEntry, others: tuple[str, ...]
) -> tuple[Figure | None, tuple[tuple[str, tuple[Figure, ...]], ...]]:
    """Return the plot beside the summary, and the groups of plots under the table: (heading, plots)."""
    deltas = delta_figures(entry, others)
    by_length = []
    for metric in entry.main_metrics[:MAX_LENGTH_FIGURES]:
        figure = length_figure(entry, _strongest(entry, others, metric), metric)
        if figure is not None:
            by_length.append(figure)
    # A single plot of differences fits beside the summary; several get their own row.
    lead = deltas[0] if len(deltas) == 1 else None
    heading = f"Differences from {entry.baseline}: right is better, bars are 95 % confidence intervals"
    groups: list[tuple[str, tuple[Figure, ...]]] = []
    if deltas and lead is None:
        groups.append((heading, deltas))
    if by_length:
        groups.append(("", tuple(by_length)))
    return lead, tuple(groups)


def _strongest(entry: SetEntry, systems: Sequence[str], metric: str) -> list[str]:
    """Return the best systems, as many as fit in a plot beside the baseline, in listed order."""
    # The baseline always has a curve, whatever its rank.
    ranked = sorted(systems, key=entry.ranked(metric).index)
    return sorted(ranked[: MAX_CURVES - 1], key=systems.index)


def delta_figures(entry: SetEntry, others: Sequence[str]) -> tuple[Figure, ...]:
    """Plot the differences from the baseline, oriented so that right is better: by metric, or by system if many."""
    plots: dict[str, list[Interval]] = {}
    if has_few_systems(entry):
        for system in others:
            rows = [_interval(entry, system, metric, _metric_label(entry, metric)) for metric in entry.main_metrics]
            plots[f"{system} against {entry.baseline}"] = rows
    else:
        for metric in entry.main_metrics:
            plots[metric_title(metric)] = [_interval(entry, system, metric, system) for system in others]
    # If there are several plots, their common heading says this.
    note = "right is better; bars are 95 % confidence intervals" if len(plots) == 1 else ""
    figures = []
    for title, rows in plots.items():
        svg = interval_plot(rows, f"Differences from {entry.baseline}: {title}")
        figures.append(Figure(title, svg, note=note))
    return tuple(figures)


def _metric_label(entry: SetEntry, metric: str) -> str:
    return metric_title(metric) + ("" if entry.metrics[metric].percent else " ×100")


def _interval(entry: SetEntry, system: str, metric: str, label: str) -> Interval:
    description, versus = entry.metrics[metric], entry.versus(system, metric)
    assert versus is not None  # the baseline is never in a plot of differences
    # One axis for all metrics: 0-to-1 scores in hundredths, and lower-is-better scores with the sign flipped.
    factor = description.sign * (1 if description.percent else 100)
    low, high = sorted((factor * versus.low, factor * versus.high))
    return Interval(
        label=label,
        low=low,
        middle=factor * versus.delta,
        high=high,
        tone=entry.verdict(system, metric),
        note=format_p(versus.decisive_p),
    )


def length_figure(entry: SetEntry, others: Sequence[str], metric: str) -> Figure | None:
    """Plot a metric against source length; None unless there are at least two groups of different length."""
    groups = entry.by_length
    if len({group.chars for group in groups}) < 2:
        return None
    systems = [entry.baseline, *others][:MAX_CURVES]
    curves = []
    for system in systems:
        points = [(group.chars, group.scores[metric][system]) for group in groups]
        curves.append(Series(system, points))
    title = f"{metric_title(metric)} by length of the source"
    sizes = sorted({group.segments for group in groups})
    size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    note = f"characters of the source; {len(groups)} groups of {size} segment{'' if sizes == [1] else 's'}"
    return Figure(title, line_plot(curves, title), tuple(systems) if others else (), note)
