"""`prefs-report.html`: one page that shows which pairs were chosen, made of prefs-report.json alone.

It is what to look at before an hour of training: whether the chosen are better and not merely longer, whose outputs
they are, whether the metrics agree, what was dropped, and twenty pairs to read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mtcpo.core.errors import UserError
from mtcpo.core.files import write_text
from mtcpo.data.records import Triplet, triplet_from_json
from mtcpo.report.figures import Figure, length_note, pair_figures
from mtcpo.report.provenance import flatten, without_plots
from mtcpo.report.rendering import render_page
from mtcpo.report.side_by_side import mark_differences
from mtcpo.report.svg import Series, bars, histogram, line_plot
from mtcpo.report.wording import humanize, metric_title

SIDES = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class PairView:
    """A pair as the page shows it; differences are marked. scores: name, chosen's, rejected's."""

    triplet: Triplet
    chosen: Markup
    rejected: Markup
    scores: tuple[tuple[str, float, float], ...]


def page_path_of(report: Path) -> Path:
    """Return where the page of a report goes: `prefs-report.json` -> `prefs-report.html`."""
    return report.with_suffix(".html")


def write_pair_page(report: Path) -> Path:
    """Make the page of a prefs-report.json beside it; return its path.

    Raises:
        UserError: the report is missing, or of a version that had no histograms.
    """
    prefs = _read_report(report)
    lengths = prefs["lengths"]
    page = render_page(
        "prefs.html",
        title=f"Preference pairs: {report.stem.removesuffix('-report')}",
        prefs=prefs,
        facts=_facts(prefs),
        figures=report_figures(prefs),
        agreement=[(humanize(names), value) for names, value in prefs["agreement"].items()],
        length_note=length_note(lengths),
        margin_note=_margin_note(lengths),
        pairs=[_view(row, f"{report}: example {number}") for number, row in enumerate(prefs["examples"], start=1)],
        groups=flatten(without_plots(prefs)),
    )
    path = page_path_of(report)
    write_text(path, page)
    return path


def _read_report(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; mtcpo build-prefs writes it")
    try:
        prefs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); build the pairs again") from None
    if not isinstance(prefs, dict) or not {"histograms", "examples", "agreement", "lengths"} <= prefs.keys():
        raise UserError(f"{path}: it lacks the histograms and examples of the page; build the pairs again")
    return prefs


def _facts(prefs: Mapping[str, Any]) -> str:
    """Return in one line what was kept of what."""
    candidates, languages = prefs["candidates"], ", ".join(prefs["languages"])
    return (
        f"{prefs['kept']:,} pairs of {prefs['sources_kept']:,} sources; {prefs['segments']:,} sources with "
        f"{candidates:,} candidates were read; {languages}"
    )


def report_figures(prefs: Mapping[str, Any]) -> list[Figure]:
    """Return the plots of a report: scores of chosen and rejected, margins, lengths, drops, systems."""
    drawn = prefs["histograms"]
    figures = [_score_figure(name, of_score, prefs) for name, of_score in drawn["scores"].items()]
    for key, title, note in (
        ("margin", "Margin: value of chosen minus rejected", f"mean {prefs['margin']['mean']:.3g}"),
        ("length_ratio", "Length ratio, chosen / rejected", "1 means equally long"),
    ):
        figures.append(Figure(title, histogram(drawn[key]["edges"], drawn[key]["pairs"], title), note=note))
    removed = prefs["removed_candidates"]
    if removed:
        rows = [(humanize(reason), float(count), "same") for reason, count in removed.items()]
        figures.append(Figure("Candidates left out", bars(rows, "Candidates left out, by reason")))
    return figures + pair_figures(prefs, None)


def _score_figure(name: str, drawn: Mapping[str, Sequence[float]], prefs: Mapping[str, Any]) -> Figure:
    """Plot the share of the chosen and of the rejected by score."""
    middles = [(low + high) / 2 for low, high in pairwise(drawn["edges"])]
    series = []
    for side in SIDES:
        counts = drawn[side]
        total = sum(counts) or 1
        series.append(Series(side, [(x, 100 * count / total) for x, count in zip(middles, counts, strict=True)]))
    means = [prefs[f"{side}_scores"].get(name) for side in SIDES]
    told = [f"{side} {value:.3g}" for side, value in zip(SIDES, means, strict=True) if value is not None]
    title = f"{metric_title(name)} of chosen and rejected, % of each"
    return Figure(title, line_plot(series, title), SIDES, f"means: {', '.join(told)}")


def _margin_note(lengths: Mapping[str, Any]) -> str:
    correlation = lengths["length_margin_correlation"]
    if correlation is None:
        return ""
    return (
        f"Over the pairs, the margin correlates by {correlation:.2f} with how much longer the chosen is (log ratio). "
        "A bias to either side is copied into the model's output: balance_length or max_length_difference take it away."
    )


def _view(row: Mapping[str, Any], where: str) -> PairView:
    triplet = triplet_from_json(row, where)
    rejected, chosen = mark_differences(triplet.rejected, triplet.chosen)
    names = [name for name in triplet.chosen_scores if name in triplet.rejected_scores]
    scores = tuple((metric_title(name), triplet.chosen_scores[name], triplet.rejected_scores[name]) for name in names)
    return PairView(triplet, chosen, rejected, scores)
