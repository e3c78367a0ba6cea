"""Scores as people read them: numbers, sentences, and evaluation.json as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

ALPHA = 0.05
"""A difference is called significant below this p-value."""

FEW_SYSTEMS = 3
"""Up to so many systems are each compared with the baseline in a sentence; more are counted, metric by metric."""

TITLES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "chrf++": "chrF++",
    "ter": "TER",
    "comet": "COMET",
    "cometkiwi": "COMETKiwi",
    "xcomet": "XCOMET",
}


def metric_title(name: str) -> str:
    """Return a metric's name as papers write it."""
    return TITLES.get(name, name)


def format_score(value: float, percent: bool) -> str:
    """Return "38.2" for metrics of 0 to 100, "0.8412" for those of 0 to 1."""
    return f"{value:.1f}" if percent else f"{value:.4f}"


def format_delta(value: float, percent: bool) -> str:
    """Return a difference with its sign: two decimals under 1 point, one above, four on a scale of 0 to 1."""
    if not percent:
        return f"{value:+.4f}"
    return f"{value:+.1f}" if abs(value) >= 0.995 else f"{value:+.2f}"


def format_p(p_value: float) -> str:
    """Return "p < 0.001" or "p = 0.012"."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def judge(versus: Mapping[str, float], higher_is_better: bool) -> str:
    """Return "better", "worse", or "same" where the difference is not significant (p >= 0.05)."""
    if versus["p_value"] >= ALPHA or versus["delta"] == 0:
        return "same"
    return "better" if (versus["delta"] > 0) == higher_is_better else "worse"


def signed_delta(value: float, percent: bool) -> str:
    """Return a difference with a true minus sign."""
    return format_delta(value, percent).replace("-", "−")


def summarise(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Say in plain words what the numbers of a test set mean."""
    baseline = entry["baseline"]
    others = [system for system in entry["systems"] if system != baseline]
    if not others:
        scores = [_score_text(entry, baseline, metric) for metric in entry["metrics"]]
        return (f"{baseline} scores {_listed(scores)}. There is no other system to compare it with.",)
    if len(others) <= FEW_SYSTEMS:
        sentences = [_compared(entry, system) for system in others]
    else:
        sentences = [_counted(entry, metric, others) for metric in entry["metrics"]]
    return tuple(sentences)


def warn_of_choosers(entry: Mapping[str, Any]) -> str:
    """Say which metrics chose the training pairs, or nothing where none did."""
    chose = [metric_title(name) for name, described in entry["metrics"].items() if _chose(described)]
    return f"{_listed(chose)} chose the training pairs: a gain there is expected, and counts for less." if chose else ""


def _score_text(entry: Mapping[str, Any], system: str, metric: str) -> str:
    score = entry["systems"][system]["metrics"][metric]["score"]
    return f"{format_score(score, entry['metrics'][metric]['percent'])} {metric_title(metric)}"


def _listed(items: Sequence[str]) -> str:
    """Join as "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def _compared(entry: Mapping[str, Any], system: str) -> str:
    """Return for example "tuned is better than start on chrF (+2.1, p < 0.001); no significant difference on BLEU"."""
    baseline = entry["baseline"]
    found: dict[str, list[str]] = {"better": [], "worse": [], "same": []}
    for metric, versus in entry["systems"][system]["versus"][baseline].items():
        described = entry["metrics"][metric]
        # No line break inside "p < 0.001".
        p_value = format_p(versus["p_value"]).replace(" ", "\u00a0")
        text = f"({signed_delta(versus['delta'], described['percent'])}, {p_value})"
        found[judge(versus, described["higher_is_better"])].append(f"{metric_title(metric)} {text}")
    parts = [f"{kind} than {baseline} on {_listed(found[kind])}" for kind in ("better", "worse") if found[kind]]
    if not parts:
        return f"{system} does not differ significantly from {baseline}: {_listed(found['same'])}."
    sentence = f"{system} is {', but '.join(parts)}"
    same = f"; no significant difference on {_listed(found['same'])}" if found["same"] else ""
    return f"{sentence}{same}."


def _counted(entry: Mapping[str, Any], metric: str, others: Sequence[str]) -> str:
    """Return for example "chrF: of 8 systems 3 are better than X, 2 worse; the best is Y with 66.4"."""
    baseline, described = entry["baseline"], entry["metrics"][metric]
    sign = 1 if described["higher_is_better"] else -1
    verdicts = [judge(entry["systems"][s]["versus"][baseline][metric], described["higher_is_better"]) for s in others]
    best = max(entry["systems"], key=lambda s: sign * entry["systems"][s]["metrics"][metric]["score"])
    return (
        f"{metric_title(metric)}: of {len(others)} systems {verdicts.count('better')} are significantly better than "
        f"{baseline} and {verdicts.count('worse')} worse; the best is {best} "
        f"with {format_score(entry['systems'][best]['metrics'][metric]['score'], described['percent'])}."
    )


def print_table(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print evaluation.json as one table a test set, with signatures under it."""
    from rich.console import Console

    # A file or a pipe has no width: numbers must not be cut there.
    console = console or Console(width=None if Console().is_terminal else 200, highlight=False)
    for key, entry in document["pairs"].items():
        _print_entry(key, entry, console)


def _print_entry(key: str, entry: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{entry['suite']} {entry['src_lang']}-{entry['tgt_lang']}: {entry['segments']} segments")
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", padding=(0, 1))
    table.add_column("system", overflow="fold")
    for name, described in entry["metrics"].items():
        mark = ("" if described["higher_is_better"] else " (lower is better)") + (" ◆" if _chose(described) else "")
        table.add_column(metric_title(name) + mark, justify="right", overflow="fold")
    for column in ("length", "empty", "copied"):
        table.add_column(column, justify="right", overflow="fold")
    for system, row in entry["systems"].items():
        cells = [_cell(name, row, described, entry["baseline"]) for name, described in entry["metrics"].items()]
        ratio = "-" if row["length_ratio"] is None else f"{row['length_ratio']:.2f}"
        name = Text(system) + Text("\nbaseline" if system == entry["baseline"] else "", style="dim")
        table.add_row(name, *cells, ratio, str(row["empty"]), str(row["copied"]))
    console.print(table)
    test = entry["significance"]
    console.print(
        Text(f"±: 95 % interval; * differs from {entry['baseline']} (p < {ALPHA}, {test['test']}, ", style="dim")
        + Text(f"{test['resamples']} resamples, seed {test['seed']})", style="dim")
    )
    if any(_chose(described) for described in entry["metrics"].values()):
        console.print(Text("◆ chose the training pairs, so its gain counts for less", style="dim"))
    for name, described in entry["metrics"].items():
        console.print(Text(f"{metric_title(name)}  {described['signature']}", style="dim"))


def _chose(described: Mapping[str, Any]) -> bool:
    return bool(described.get("chose_pairs"))


def _cell(name: str, row: Mapping[str, Any], described: Mapping[str, Any], baseline: str) -> Text:
    from rich.text import Text

    percent, score = described["percent"], row["metrics"][name]
    text = Text(f"{format_score(score['score'], percent)} ±{format_score(score['ci'], percent)}")
    versus = row["versus"].get(baseline, {}).get(name)
    if versus is None:
        return text
    verdict = judge(versus, described["higher_is_better"])
    style = {"better": "green", "worse": "red", "same": "dim"}[verdict]
    star = "" if verdict == "same" else " *"
    return text + Text(f"\n{format_delta(versus['delta'], percent)} {format_p(versus['p_value'])}{star}", style=style)
