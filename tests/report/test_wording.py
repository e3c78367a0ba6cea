import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from support.runs import evaluate, german_outputs, german_test_set

from mtcpo.evaluation.document import to_document
from mtcpo.report.terminal_table import print_table
from mtcpo.report.wording import (
    decisive_p,
    format_delta,
    format_p,
    format_score,
    judge,
    metric_title,
    selection_metric_note,
    summarise,
    too_few_resamples,
)


@pytest.mark.parametrize(
    ("value", "percent", "expected"),
    [
        (38.249, True, "+38.2"),
        (-1.04, True, "-1.0"),
        (0.994, True, "+0.99"),
        (0.996, True, "+1.0"),
        (-0.012, True, "-0.01"),
    ],
)
def test_small_differences_get_a_second_decimal(value, percent, expected):
    assert format_delta(value, percent) == expected


def test_scores_of_both_scales():
    assert format_score(38.249, True) == "38.2"
    assert format_score(0.84125, False) == "0.8413"
    assert format_delta(-0.0121, False) == "-0.0121"
    assert metric_title("chrf++") == "chrF++"
    assert metric_title("mine") == "mine"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0009, "p < 0.001"), (0.001, "p = 0.001"), (0.0499, "p = 0.050"), (0.3, "p = 0.30"), (1.0, "p = 1.00")],
)
def test_p_values_in_words(p, text):
    assert format_p(p) == text


def test_judgement():
    def row(delta, bootstrap, randomisation):
        return {"delta": delta, "p_value": bootstrap, "p_randomisation": randomisation}

    assert judge(row(1.0, 0.049, 0.049), True) == "better"
    assert judge(row(1.0, 0.05, 0.049), True) == "same"
    assert judge(row(1.0, 0.049, 0.05), True) == "same"
    assert judge(row(1.0, 0.001, 0.001), False) == "worse"
    assert judge(row(-1.0, 0.001, 0.001), False) == "better"
    assert judge(row(0.0, 0.001, 0.001), True) == "same"
    assert judge(row(1.0, 0.001, 0.002) | {"p_holm": 0.06}, True) == "same"
    assert decisive_p(row(1.0, 0.01, 0.02)) == 0.02
    assert decisive_p(row(1.0, 0.02, 0.01)) == 0.02


def test_too_few_resamples_for_any_verdict_are_named():
    entry = entry_of("tuned", "other", tuned=[(1.0, 0.3)] * 3, other=[(1.0, 0.3)] * 3)
    for resamples, others in ((39, 2), (19, 1)):
        systems = dict(list(entry["systems"].items())[: others + 1])
        text = too_few_resamples(entry | {"systems": systems, "significance": {"resamples": resamples}})
        assert bool(text) == (others / (resamples + 1) >= 0.05)
        few = too_few_resamples(entry | {"systems": systems, "significance": {"resamples": resamples - 1}})
        assert few.startswith(f"{resamples - 1} resamples are too few for {others} comparison")
    assert too_few_resamples({"systems": {"one": {}}, "significance": {"resamples": 1}}) == ""


def entry_of(*systems: str, **rows) -> dict:
    """An entry of evaluation.json with BLEU, TER and COMET; rows: system -> (delta, p) of each."""
    metrics = {
        "bleu": {"signature": "s", "higher_is_better": True, "percent": True},
        "ter": {"signature": "s", "higher_is_better": False, "percent": True},
        "comet": {"signature": "s", "higher_is_better": True, "percent": False, "chose_pairs": True},
    }
    base = {"bleu": 30.0, "ter": 50.0, "comet": 0.8}
    entry = {
        "baseline": "start",
        "reference_names": ["A"],
        "metrics": metrics,
        "systems": {"start": {"metrics": {}, "versus": {}}},
    }
    entry["systems"]["start"]["metrics"] = {name: {"score": score, "ci": 1.0} for name, score in base.items()}
    for system in systems:
        changes = dict(zip(metrics, rows[system], strict=True))
        entry["systems"][system] = {
            "metrics": {name: {"score": base[name] + change[0], "ci": 1.0} for name, change in changes.items()},
            "versus": {
                "start": {
                    name: {"delta": change[0], "p_value": change[1], "p_randomisation": change[1]}
                    for name, change in changes.items()
                }
            },
        }
    return entry


def plain(sentences) -> list[str]:
    return [sentence.replace("\u00a0", " ") for sentence in sentences]


def test_a_mixed_result_in_words():
    entry = entry_of("tuned", tuned=[(-4.9, 0.0001), (0.3, 0.4), (0.031, 0.002)])
    assert plain(summarise(entry)) == [
        "tuned is better than start on COMET (+0.0310, p = 0.002), but worse than start on BLEU (−4.9, p < 0.001); "
        "no significant difference on TER (+0.30, p = 0.40)."
    ]
    assert selection_metric_note(entry).startswith("COMET chose the training pairs")


def test_a_clear_result_in_words():
    entry = entry_of("tuned", tuned=[(2.1, 0.0001), (-1.2, 0.003), (0.01, 0.02)])
    assert plain(summarise(entry)) == [
        "tuned is better than start on BLEU (+2.1, p < 0.001), TER (−1.2, p = 0.003) and COMET (+0.0100, p = 0.020)."
    ]


def test_no_difference_in_words():
    entry = entry_of("tuned", tuned=[(0.1, 0.3), (-0.1, 0.3), (0.0, 1.0)])
    assert plain(summarise(entry))[0].startswith(
        "tuned does not differ significantly from start: BLEU (+0.10, p = 0.30)"
    )


def test_a_single_system_in_words():
    assert summarise(entry_of()) == (
        "start scores 30.0 BLEU, 50.0 TER and 0.8000 COMET. There is no other system to compare it with.",
    )


def test_many_systems_are_counted():
    rows = {name: [(number - 1.5, 0.01), (number - 1.5, 0.01), (0.0, 1.0)] for number, name in enumerate("abcd")}
    sentences = plain(summarise(entry_of(*"abcd", **rows)))
    assert (
        sentences[0] == "BLEU: of 4 systems 2 are significantly better than start and 2 worse; the best is d with 31.5."
    )
    assert (
        sentences[1] == "TER: of 4 systems 2 are significantly better than start and 2 worse; the best is a with 48.5."
    )
    assert sentences[2].startswith("COMET: of 4 systems 0 are significantly better than start and 0 worse")


def test_of_metrics_against_one_reference_no_sentence_speaks():
    test_set = german_test_set(20)
    two = replace(
        test_set, reference_names=("A", ""),
        segments=tuple(replace(one, references=(*one.references, one.source)) for one in test_set.segments),
    )  # fmt: skip
    for shares in ({"start": 0.3}, {"start": 0.3, "tuned": 0.1}, dict.fromkeys("abcdef", 0.2)):
        entry = evaluate(two, german_outputs(two, shares), each_reference=True).entry
        assert list(entry["metrics"])[:4] == ["bleu", "bleu-A", "bleu-unnamed", "chrf"]
        text = " ".join(summarise(entry))
        assert "BLEU" in text
        assert "BLEU-" not in text
        assert "TER-" not in text


def printed(document, width=160) -> str:
    out = StringIO()
    print_table(document, Console(file=out, width=width, color_system=None))
    return out.getvalue()


def test_the_table_in_the_terminal():
    test_set = german_test_set(40)
    document = to_document([evaluate(test_set, german_outputs(test_set, {"start": 0.3, "[red]tuned": 0.05}))])
    text = printed(document)
    assert "garden en-de: 40 segments" in text
    # A name that looks like the library's markup is shown as it is.
    assert "[red]tuned" in text
    assert "TER (lower is better)" in text
    assert "chrF ◆" in text
    assert "◆ chose the training pairs" in text
    assert "p = 0.003 *" in text
    assert "nrefs:1|case:mixed|eff:no|tok:13a" in text
    score = document["pairs"]["en-de"]["systems"]["start"]["metrics"]["bleu"]
    assert f"{score['score']:.1f} ±{score['ci']:.1f}" in text


def test_a_single_system_is_no_baseline():
    test_set = german_test_set(10)
    one, two = (
        printed(to_document([evaluate(test_set, german_outputs(test_set, dict.fromkeys(names, 0.3)))]))
        for names in (["start"], ["start", "tuned"])
    )
    assert "baseline" not in one
    assert "baseline" in two


def test_a_terminal_that_has_colours_shows_better_green_and_worse_red():
    test_set = german_test_set(40)
    outputs = german_outputs(test_set, {"start": 0.3, "tuned": 0.05, "spoilt": 0.9})
    document = to_document([evaluate(test_set, outputs)])
    out = StringIO()
    print_table(document, Console(file=out, width=160, force_terminal=True, color_system="standard"))
    coloured = dict(re.findall(r"\x1b\[(3[12])m([+-][\d.]+) p", out.getvalue()))
    versus = {name: document["pairs"]["en-de"]["systems"][name]["versus"]["start"] for name in ("tuned", "spoilt")}
    assert coloured["32"] in {f"{delta['delta']:+.1f}" for delta in versus["tuned"].values()}
    assert coloured["31"] in {f"{delta['delta']:+.1f}" for delta in versus["spoilt"].values()}
    assert re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()) == printed(document)


def test_a_narrow_terminal_cuts_no_number():
    test_set = german_test_set(10)
    document = to_document([evaluate(test_set, german_outputs(test_set, {"start": 0.3, "tuned": 0.05}))])
    assert "…" not in printed(document, width=60)


def test_a_pipe_gets_a_whole_table(capsys):
    test_set = german_test_set(10)
    print_table(to_document([evaluate(test_set, german_outputs(test_set, {"start": 0.3}))]))
    text = capsys.readouterr().out
    assert "start" in text
    assert "\x1b" not in text


def test_however_many_metrics_no_number_is_broken_in_a_pipe(capsys):
    test_set = german_test_set(10)
    labels = tuple("ABCDEFGH")
    many = replace(
        test_set, reference_names=labels,
        segments=tuple(replace(one, references=one.references * len(labels)) for one in test_set.segments),
    )  # fmt: skip
    outputs = german_outputs(many, {"start": 0.3, "tuned": 0.1})
    print_table(to_document([evaluate(many, outputs, each_reference=True)]))
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.count("±") for line in lines if line.startswith("│")) == 2 * 27
    # One line for each system's scores, one for its differences.
    assert len([line for line in lines if line.startswith("│")]) == 4
