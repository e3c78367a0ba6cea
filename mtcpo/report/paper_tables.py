"""evaluation.json as tables for a paper or a README: LaTeX and Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mtcpo.core.errors import counted
from mtcpo.core.files import write_text
from mtcpo.evaluation.document import ALPHA, EvaluationDocument, SetEntry
from mtcpo.report.wording import (
    decoding_notes,
    describe_tests,
    format_score,
    listed_systems,
    metric_title,
    selection_metric_note,
)

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "*": "{*}",  # both are special after the end of a row
}  # fmt: skip
"""LaTeX's special characters -> how to write them."""

CAPTION_MARKS = {"\ue000": r"$^{*}$", "\ue001": r"$^{\dagger}$"}
"""Placeholders for the marks of better and worse while a caption is escaped: no name contains these characters."""


@dataclass(frozen=True, slots=True)
class Markup:
    """How a cell is written. best, interval: templates with one field; marks: verdict -> mark."""

    best: str
    interval: str
    marks: dict[str, str]


MARKDOWN = Markup("**{}**", " ±{}", {"better": r"\*", "worse": "†", "same": ""})
TEX = Markup(
    r"\textbf{{{}}}",
    r" {{\scriptsize$\pm${}}}",
    {"better": r"\rlap{$^{*}$}", "worse": r"\rlap{$^{\dagger}$}", "same": ""},
)


def write_paper_tables(folder: Path, document: EvaluationDocument) -> None:
    """Write evaluation.md and evaluation.tex, with a table for each test set, beside evaluation.json."""
    write_text(folder / "evaluation.md", "\n".join(map(to_markdown, document.entries)))
    write_text(folder / "evaluation.tex", "\n".join(map(to_latex, document.entries)))


def to_markdown(entry: SetEntry) -> str:
    """Return a test set's scores as a Markdown table, best scores in bold, followed by what the marks mean."""
    heads = ["system"]
    for metric, description in entry.metrics.items():
        heads.append(metric_title(metric) + ("↑" if description.higher_is_better else "↓"))
    lines = [f"### {_plain(entry.suite)} {entry.pair}, {counted(entry.segments, 'segment')}", ""]
    lines.append(_row(map(_plain, heads)))
    lines.append(_row(["---"] + ["---:"] * len(entry.metrics)))
    for system in listed_systems(entry):
        cells = [_cell(entry, system, metric, MARKDOWN) for metric in entry.metrics]
        lines.append(_row([_plain(system), *cells]))
    lines += ["", *_notes(entry, r"\*", "†", _plain), ""]
    for metric, description in entry.metrics.items():
        lines.append(f"- {metric_title(metric)}: `{description.signature}`")
    return "\n".join(lines) + "\n"


def to_latex(entry: SetEntry) -> str:
    """Return a test set's scores as a LaTeX table for booktabs, with signatures as comments."""
    heads, lines = ["System"], []
    for metric, description in entry.metrics.items():
        arrow = r" $\uparrow$" if description.higher_is_better else r" $\downarrow$"
        heads.append(_tex(metric_title(metric)) + arrow)
        # A comment ends with its line, so it must not contain a line break.
        lines.append(f"% {_one_line(metric_title(metric))}: {_one_line(description.signature)}")
    lines += [r"% in the preamble: \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(entry.metrics)}}}", r"\toprule"]
    lines += [" & ".join(heads) + r" \\", r"\midrule"]
    for system in listed_systems(entry):
        cells = [_cell(entry, system, metric, TEX) for metric in entry.metrics]
        lines.append(" & ".join([_tex(system), *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{_caption(entry)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _caption(entry: SetEntry) -> str:
    better, worse = CAPTION_MARKS
    notes = " ".join(_notes(entry, better, worse, str))
    caption = _tex(f"{entry.suite} {entry.pair}, {counted(entry.segments, 'segment')}. {notes}").replace("±", r"$\pm$")
    for placeholder, tex in CAPTION_MARKS.items():
        caption = caption.replace(placeholder, tex)
    return caption


def _cell(entry: SetEntry, system: str, metric: str, markup: Markup) -> str:
    """Return a score: bold if it is the best, marked if significantly different from the baseline; with interval."""
    percent, score = entry.metrics[metric].percent, entry.score(system, metric)
    text = format_score(score.score, percent)
    if system in entry.best(metric):
        text = markup.best.format(text)
    mark = markup.marks[entry.verdict(system, metric)]
    return text + mark + markup.interval.format(format_score(score.ci, percent))


def _notes(entry: SetEntry, better: str, worse: str, escape: Callable[[str], str]) -> list[str]:
    notes = ["±: half the width of the 95 % confidence interval."]
    if entry.others:
        baseline, tests = escape(entry.baseline), describe_tests(entry)
        notes.append(
            f"{better} significantly better, {worse} significantly worse than {baseline} (p < {ALPHA}, {tests})."
        )
    if entry.selection_metrics:
        notes.append(escape(selection_metric_note(entry)))
    notes += map(escape, decoding_notes(entry))
    return notes


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    """Escape a name for Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", _one_line(text))


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
