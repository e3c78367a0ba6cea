"""The table of an evaluation in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mtcpo.report.wording import (
    _used_for_selection,
    checked_symptoms,
    cluster_of,
    count_text,
    decisive_p,
    format_delta,
    format_p,
    format_score,
    judge,
    metric_title,
    notes_of,
    ranked,
    shows_clusters,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def print_table(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print evaluation.json as one table a test set, with signatures under it."""
    from rich.console import Console

    # A file or a pipe has no width: numbers must not be cut there.
    console = console or Console(width=None if Console().is_terminal else 1000, highlight=False)
    for key, entry in document["pairs"].items():
        _print_entry(key, entry, console)


def _print_entry(key: str, entry: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{entry['suite']} {entry['src_lang']}-{entry['tgt_lang']}: {entry['segments']} segments")
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", padding=(0, 1))
    table.add_column("system", overflow="fold")
    for name, described in entry["metrics"].items():
        mark = ("" if described["higher_is_better"] else " (lower is better)") + (
            " ◆" if _used_for_selection(described) else ""
        )
        table.add_column(metric_title(name) + mark, justify="right", overflow="fold")
    symptoms = checked_symptoms(entry)
    for column in ("length", *symptoms):
        table.add_column(column.replace("_", " "), justify="right", overflow="fold")
    order, leading = ranked(entry), next(iter(entry["metrics"]))
    for system, after in zip(order, [*order[1:], None], strict=True):
        row = entry["systems"][system]
        cells = [
            _cell(name, row, described, entry["baseline"], shows_clusters(entry))
            for name, described in entry["metrics"].items()
        ]
        ratio = "-" if row["length_ratio"] is None else f"{row['length_ratio']:.2f}"
        is_baseline = system == entry["baseline"] and len(order) > 1
        name = Text(system) + Text("\nbaseline" if is_baseline else "", style="dim")
        ends = after is not None and shows_clusters(entry) and (
            cluster_of(entry, system, leading) != cluster_of(entry, after, leading)
        )  # fmt: skip
        table.add_row(name, *cells, ratio, *(count_text(row.get(one)) for one in symptoms), end_section=ends)
    console.print(table)
    for line in notes_of(entry):
        console.print(Text(line, style="dim"))
    for name, described in entry["metrics"].items():
        console.print(Text(f"{metric_title(name)}  {described['signature']}", style="dim"))


def _cell(name: str, row: Mapping[str, Any], described: Mapping[str, Any], baseline: str, clusters: bool) -> Text:
    from rich.text import Text

    percent, score = described["percent"], row["metrics"][name]
    text = Text(f"{format_score(score['score'], percent)} ±{format_score(score['ci'], percent)}")
    if clusters:
        text += Text(f" #{score['cluster']}", style="dim")
    versus = row["versus"].get(baseline, {}).get(name)
    if versus is None:
        return text
    verdict = judge(versus, described["higher_is_better"])
    style = {"better": "green", "worse": "red", "same": "dim"}[verdict]
    star = "" if verdict == "same" else " *"
    return text + Text(f"\n{format_delta(versus['delta'], percent)} {format_p(decisive_p(versus))}{star}", style=style)
