"""Plots and sentences about preference pairs, from prefs-report.json, for report.html and prefs-report.html."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from mtcpo.data.pair_report import Histogram, Lengths, PairReport
from mtcpo.report.svg import Figure, Series, bars, histogram, line_plot
from mtcpo.report.wording import humanize, metric_title

SIDES = ("chosen", "rejected")

MAX_BARS = 9
"""Maximum number of systems in a plot."""


def pair_figures(report: PairReport) -> list[Figure]:
    """Plot the pairs: kept and dropped, margins, lengths, systems."""
    # Histograms of a uniform sample: all pairs would look the same, and prefs.jsonl need not be read again.
    drawn = report.histograms
    figures = [
        _drops_figure(report),
        _histogram_figure("Margin: value of chosen minus rejected", drawn.margin, f"mean {report.margin.mean:.3g}"),
        _histogram_figure("Length ratio, chosen / rejected", drawn.length_ratio, "1 means equally long"),
    ]
    for side, systems in (("chosen", report.systems.chosen), ("rejected", report.systems.rejected)):
        # With a single system there is nothing to compare.
        if len(systems) > 1:
            figures.append(_systems_figure(f"Systems of the {side} translations", systems))
    return figures


def candidate_figures(report: PairReport) -> list[Figure]:
    """Plot the candidates: scores of chosen and rejected, and candidates that were removed."""
    figures = []
    for metric, drawn in report.histograms.scores.items():
        means = {"chosen": report.chosen_scores.get(metric), "rejected": report.rejected_scores.get(metric)}
        figures.append(_score_figure(metric, drawn, means))
    if report.removed_candidates:
        rows = _count_rows(report.removed_candidates)
        figures.append(Figure("Candidates left out", bars(rows, "Candidates left out, by reason")))
    return figures


def _drops_figure(report: PairReport) -> Figure:
    rows = [("kept", float(report.kept), "main"), *_count_rows(report.dropped)]
    return Figure("Kept and dropped sources", bars(rows, "Sources kept, and dropped by reason"))


def _count_rows(counts: Mapping[str, int]) -> list[tuple[str, float, str]]:
    return [(humanize(reason), float(count), "same") for reason, count in counts.items()]


def _histogram_figure(title: str, drawn: Histogram, note: str) -> Figure:
    return Figure(title, histogram(drawn.edges, drawn.counts["pairs"], title), note=note)


def _systems_figure(title: str, systems: Mapping[str, int]) -> Figure:
    # They are sorted, the most frequent first.
    rows = [(system, float(count), "main") for system, count in list(systems.items())[:MAX_BARS]]
    note = f"the first {MAX_BARS} of {len(systems)}" if len(systems) > MAX_BARS else ""
    return Figure(title, bars(rows, title), note=note)


def _score_figure(metric: str, drawn: Histogram, means: Mapping[str, float | None]) -> Figure:
    """Plot the distribution of a score for chosen and rejected: shares, not counts, because some may lack the score."""
    middles = [(low + high) / 2 for low, high in pairwise(drawn.edges)]
    curves, notes = [], []
    for side in SIDES:
        counts, mean = drawn.counts[side], means[side]
        total = sum(counts) or 1  # a side without any score has a curve on the axis
        points = []
        for middle, count in zip(middles, counts, strict=True):
            points.append((middle, 100 * count / total))
        curves.append(Series(side, points))
        if mean is not None:
            notes.append(f"{side} {mean:.3g}")
    title = f"{metric_title(metric)} of chosen and rejected, % of each"
    return Figure(title, line_plot(curves, title), SIDES, f"means: {', '.join(notes)}")


def length_note(lengths: Lengths) -> str:
    """Return a sentence on the lengths of chosen and rejected: a model copies a length bias of its pairs."""
    note = (
        f"The chosen translation is longer in {100 * lengths.chosen_longer_share:.0f} % and shorter in "
        f"{100 * lengths.rejected_longer_share:.0f} % of the pairs. Mean lengths: {lengths.chosen_mean_chars:.1f} "
        f"characters (chosen) and {lengths.rejected_mean_chars:.1f} (rejected)."
    )
    if lengths.length_score_correlation is None:
        return note
    return (
        f"{note} Among the candidates of a source, the correlation of length and value is "
        f"{lengths.length_score_correlation:.2f}."
    )


def margin_note(lengths: Lengths) -> str:
    """Return a sentence on whether margins correlate with length, or "" if one of the two is constant."""
    if lengths.length_margin_correlation is None:
        return ""
    return (
        f"Over the pairs, the correlation of the margin with the length ratio (log) is "
        f"{lengths.length_margin_correlation:.2f}. Training copies a length bias of the pairs into the model's output; "
        "balance_length or max_length_difference removes it."
    )
