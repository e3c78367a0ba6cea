"""The table of an evaluation in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtcpo.core.errors import counted
from mtcpo.evaluation.document import EvaluationDocument, SetEntry
from mtcpo.report.columns import columns_of
from mtcpo.report.wording import (
    ends_cluster,
    format_delta,
    format_p,
    format_score,
    listed_systems,
    metric_heading,
    metric_title,
    shows_clusters,
    table_notes,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STYLES = {"better": "green", "worse": "red", "same": "dim"}

WIDTH_OF_A_PIPE = 1000


def print_table(document: EvaluationDocument, console: Console | None = None) -> None:
    """Print evaluation.json as one table per test set, with signatures below it."""
    from rich.console import Console

    if console is None:
        # A file or a pipe has no width: nothing must be truncated there.
        console = Console(width=None if Console().is_terminal else WIDTH_OF_A_PIPE, highlight=False)
    for entry in document.entries:
        _print_entry(entry, console)


def _print_entry(entry: SetEntry, console: Console) -> None:
    # Text instead of str wherever a name may appear: rich would read [red] in a str as markup.
    from rich.text import Text

    table = _table_with_heads(entry)
    columns = columns_of(entry)
    for system in listed_systems(entry):
        is_baseline = system == entry.baseline and bool(entry.others)
        name = Text(system) + Text("\nbaseline" if is_baseline else "", style="dim")
        scores = [_score_cell(entry, system, metric) for metric in entry.metrics]
        rest = [column.cell(entry.systems[system]) for column in columns]
        table.add_row(name, *scores, *rest, end_section=ends_cluster(entry, system))
    console.print(table)
    for line in table_notes(entry):
        console.print(Text(line, style="dim"))
    for metric, description in entry.metrics.items():
        console.print(Text(f"{metric_title(metric)}  {description.signature}", style="dim"))


def _table_with_heads(entry: SetEntry) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{entry.suite} {entry.pair}: {counted(entry.segments, 'segment')}")
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", padding=(0, 1))
    table.add_column("system", overflow="fold")
    for metric in entry.metrics:
        table.add_column(metric_heading(entry, metric), justify="right", overflow="fold")
    for column in columns_of(entry):
        table.add_column(column.title, justify="right", overflow="fold")
    return table


def _score_cell(entry: SetEntry, system: str, metric: str) -> Text:
    """Return a score with its interval and cluster and, below it, the difference from the baseline."""
    from rich.text import Text

    percent, score = entry.metrics[metric].percent, entry.score(system, metric)
    text = Text(f"{format_score(score.score, percent)} ±{format_score(score.ci, percent)}")
    if shows_clusters(entry):
        text += Text(f" #{score.cluster}", style="dim")
    versus = entry.versus(system, metric)
    if versus is None:
        return text
    verdict = entry.verdict(system, metric)
    star = "" if verdict == "same" else " *"
    difference = f"\n{format_delta(versus.delta, percent)} {format_p(versus.decisive_p)}{star}"
    return text + Text(difference, style=STYLES[verdict])
