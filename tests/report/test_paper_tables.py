import re

import pytest
from support.runs import evaluate, german_outputs, german_test_set

from mtcpo.evaluation.document import EvaluationDocument
from mtcpo.report.paper_tables import to_latex, to_markdown, write_paper_tables


@pytest.fixture(scope="module")
def entry():
    test_set = german_test_set(60)
    outputs = german_outputs(test_set, {"a_b|c": 0.3, "100%&{x}~": 0.1})
    return evaluate(test_set, outputs).entry


def test_the_markdown_table_of_two_systems(entry):
    lines = to_markdown(entry).splitlines()
    first, second = (scores.metrics for scores in entry.systems.values())
    assert lines[0] == "### garden en-de, 60 segments"
    assert lines[2] == "| system | BLEU↑ | chrF↑ | TER↓ |"
    assert lines[3] == "| --- | ---: | ---: | ---: |"
    cells = [f"{first[name].score:.1f} ±{first[name].ci:.1f}" for name in ("bleu", "chrf", "ter")]
    assert lines[4] == r"| a\_b\|c | " + " | ".join(cells) + " |"
    cells = [f"**{second[name].score:.1f}*** ±{second[name].ci:.1f}".replace("***", "**\\*") for name in
             ("bleu", "chrf", "ter")]  # fmt: skip
    assert lines[5] == r"| 100%&\{x\}\~ | " + " | ".join(cells) + " |"
    assert (
        "the larger p of paired bootstrap and paired approximate randomization, 300 resamples each, seed 12345"
        in "\n".join(lines)
    )
    assert "chrF was used to select the training pairs, so a gain on it is weaker evidence." in lines
    assert any(line.startswith("- BLEU: `nrefs:1|case:mixed|eff:no|tok:13a") for line in lines)


def test_a_single_system_is_not_set_in_bold():
    test_set = german_test_set(10)
    assert "**" not in to_markdown(evaluate(test_set, german_outputs(test_set, {"only": 0.3})).entry)


def test_latex_escapes_names_and_is_balanced(entry):
    text = to_latex(entry)
    assert r"a\_b\textbar{}c & " in text
    assert r"100\%\&\{x\}\textasciitilde{} & \textbf{" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 3
    unescaped = [line.replace(r"\&", "") for line in body]
    assert {line.count("&") for line in unescaped} == {3}
    assert (
        r"$^{*}$ significantly better, $^{\dagger}$ significantly worse than a\_b\textbar{}c (p \textless{} 0.05"
        in text
    )
    assert text.startswith("% BLEU: nrefs:1|")
    depth = 0
    for at, character in enumerate(text):
        if character in "{}" and text[at - 1] != "\\":
            depth += 1 if character == "{" else -1
            assert depth >= 0
    assert depth == 0


def test_latex_of_names_with_brackets_stars_and_the_names_of_marks():
    test_set = german_test_set(10)
    outputs = german_outputs(test_set, {"STAR-1": 0.3, "[red]": 0.2, "*best": 0.1})
    text = to_latex(evaluate(test_set, outputs).entry)
    # Behind the end of a row a bracket would be its height, and a star a ban on a page's end.
    assert not re.search(r"\\\\\s*[\[*]", text)
    assert "\n{[}red] & " in text
    assert "\n{*}best & " in text
    assert r"$^{*}$ significantly better, $^{\dagger}$ significantly worse than STAR-1 (p" in text
    assert r"\usepackage{booktabs}" in text.split(r"\begin{table}")[0]


def test_paper_tables_are_written_beside_evaluation_json(tmp_path, entry):
    write_paper_tables(tmp_path, EvaluationDocument(pairs={"en-de": entry, "garden:en-de": entry}))
    assert (tmp_path / "evaluation.md").read_text(encoding="utf-8").count("### garden") == 2
    assert (tmp_path / "evaluation.tex").read_text(encoding="utf-8").count(r"\toprule") == 2
