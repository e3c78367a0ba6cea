"""`prefs-report.html`: a page about the preference pairs, made from prefs-report.json alone.

Worth a look before an hour of training: are the chosen better, or merely longer? Whose outputs are they? Do the
metrics agree? What was dropped? And twenty pairs to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from mtcpo.core.files import write_text
from mtcpo.data.pair_report import PairReport, read_pair_report
from mtcpo.data.records import Triplet
from mtcpo.report.pair_figures import candidate_figures, length_note, margin_note, pair_figures
from mtcpo.report.provenance import flatten
from mtcpo.report.rendering import render_page
from mtcpo.report.side_by_side import mark_differences
from mtcpo.report.wording import humanize, metric_title


@dataclass(frozen=True, slots=True)
class PairView:
    """A pair as the page shows it, with differences marked. scores: (metric, chosen's, rejected's)."""

    triplet: Triplet
    chosen: Markup
    rejected: Markup
    scores: tuple[tuple[str, float, float], ...]


def page_path_of(report: Path) -> Path:
    """Return the path of a report's page: `prefs-report.json` -> `prefs-report.html`."""
    return report.with_suffix(".html")


def write_pair_page(path: Path) -> Path:
    """Write the page of a prefs-report.json beside it; return the page's path.

    Raises:
        UserError: the report is missing, or of another version.
    """
    report = read_pair_report(path)
    agreement = [(humanize(metrics), correlation) for metrics, correlation in report.agreement.items()]
    page = render_page(
        "prefs.html",
        title=f"Preference pairs: {path.stem.removesuffix('-report')}",
        report=report,
        facts=_facts(report),
        figures=candidate_figures(report) + pair_figures(report),
        agreement=agreement,
        length_note=length_note(report.lengths),
        margin_note=margin_note(report.lengths),
        pairs=list(map(_view, report.examples)),
        groups=flatten(report.numbers()),
    )
    page_path = page_path_of(path)
    write_text(page_path, page)
    return page_path


def _facts(report: PairReport) -> str:
    """Return a line on how many pairs were kept, from how many sources and candidates, in which languages."""
    return (
        f"{report.kept:,} pairs of {report.sources_kept:,} sources; {report.segments:,} sources with "
        f"{report.candidates:,} candidates were read; {', '.join(report.languages)}"
    )


def _view(triplet: Triplet) -> PairView:
    # From rejected to chosen: text that only the chosen has is marked as new.
    rejected, chosen = mark_differences(triplet.rejected, triplet.chosen)
    scores = []
    for name, chosen_score in triplet.chosen_scores.items():
        # A score of only one side says nothing about the pair.
        if name in triplet.rejected_scores:
            scores.append((metric_title(name), chosen_score, triplet.rejected_scores[name]))
    return PairView(triplet, chosen, rejected, tuple(scores))
