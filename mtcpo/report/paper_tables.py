"""evaluation.json as tables for a paper or a README: LaTeX and Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mtcpo.core.files import write_text
from mtcpo.evaluation.significance import ALPHA
from mtcpo.report.wording import format_score, judge, metric_title, ranked, significance_in_words

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "*": "{*}",  # both mean something after the end of a row
}  # fmt: skip
"""What LaTeX would read as its own."""

MARKS = {"better": (r"\*", r"\rlap{$^{*}$}"), "worse": ("†", r"\rlap{$^{\dagger}$}"), "same": ("", "")}

CAPTION_MARKS = {"\ue000": r"$^{*}$", "\ue001": r"$^{\dagger}$"}
"""What stands in a caption, until its text is escaped, for the marks of better and worse: no name has it."""


def write_paper_tables(folder: Path, document: Mapping[str, Any]) -> None:
    """Write evaluation.md and evaluation.tex beside evaluation.json: a table for each test set."""
    entries = document["pairs"].values()
    write_text(folder / "evaluation.md", "\n".join(map(to_markdown, entries)))
    write_text(folder / "evaluation.tex", "\n".join(map(to_latex, entries)))


def to_markdown(entry: Mapping[str, Any]) -> str:
    """Return a test set's scores as a Markdown table, the best of each metric in bold, with what the marks mean."""
    names = list(entry["metrics"])
    heads = ["system", *(metric_title(name) + _arrow(entry, name, "↑", "↓") for name in names)]
    lines = [f"### {_plain(entry['suite'])} {entry['src_lang']}-{entry['tgt_lang']}, {entry['segments']} segments", ""]
    lines += [_row(map(_plain, heads)), _row(["---", *("---:" for _ in names)])]
    for system in ranked(entry):
        cells = [_cell(entry, system, name, "**{}**", 0, " ±{}") for name in names]
        lines.append(_row([_plain(system), *cells]))
    lines += ["", *_notes(entry, r"\*", "†", _plain), ""]
    lines += [f"- {metric_title(name)}: `{described['signature']}`" for name, described in entry["metrics"].items()]
    return "\n".join(lines) + "\n"


def to_latex(entry: Mapping[str, Any]) -> str:
    """Return a test set's scores as a LaTeX table for booktabs, with signatures as comments."""
    names = list(entry["metrics"])
    heads = ["System", *(metric_title(name) for name in names)]
    heads = [_tex(head) + (_arrow(entry, name, r" $\uparrow$", r" $\downarrow$") if name else "")
             for head, name in zip(heads, ["", *names], strict=True)]  # fmt: skip
    lines = [f"% {_one_line(metric_title(name))}: {_one_line(entry['metrics'][name]['signature'])}" for name in names]
    lines += [r"% in the preamble: \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(names)}}}", r"\toprule"]
    lines += [" & ".join(heads) + r" \\", r"\midrule"]
    for system in ranked(entry):
        cells = [_cell(entry, system, name, r"\textbf{{{}}}", 1, r" {{\scriptsize$\pm${}}}") for name in names]
        lines.append(" & ".join([_tex(system), *cells]) + r" \\")
    caption = f"{entry['suite']} {entry['src_lang']}-{entry['tgt_lang']}, {entry['segments']} segments. "
    better, worse = CAPTION_MARKS
    notes = " ".join(_notes(entry, better, worse, str))
    caption = _tex(caption + notes).replace("±", r"$\pm$")
    for mark, tex in CAPTION_MARKS.items():
        caption = caption.replace(mark, tex)
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _cell(entry: Mapping[str, Any], system: str, name: str, bold: str, mark: int, interval: str) -> str:
    described, row = entry["metrics"][name], entry["systems"][system]
    scores = [other["metrics"][name]["score"] for other in entry["systems"].values()]
    best = (max if described["higher_is_better"] else min)(scores)
    score, ci = (format_score(row["metrics"][name][key], described["percent"]) for key in ("score", "ci"))
    versus = row["versus"].get(entry["baseline"], {}).get(name)
    verdict = "same" if versus is None else judge(versus, described["higher_is_better"])
    is_best = len(scores) > 1 and row["metrics"][name]["score"] == best
    return (bold.format(score) if is_best else score) + MARKS[verdict][mark] + interval.format(ci)


def _notes(entry: Mapping[str, Any], better: str, worse: str, escape: Callable[[str], str]) -> list[str]:
    notes = ["±: half the 95 % interval."]
    if len(entry["systems"]) > 1:
        baseline, test = escape(entry["baseline"]), significance_in_words(entry)
        notes.append(f"{better} better, {worse} worse than {baseline} (p < {ALPHA}, {test}).")
    chose = [metric_title(name) for name, described in entry["metrics"].items() if described.get("chose_pairs")]
    return notes + ([f"{', '.join(chose)} chose the training pairs."] if chose else [])


def _arrow(entry: Mapping[str, Any], name: str, up: str, down: str) -> str:
    return up if entry["metrics"][name]["higher_is_better"] else down


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    """Return a name that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", _one_line(text))


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
