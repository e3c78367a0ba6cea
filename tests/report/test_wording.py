import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from support.runs import evaluate, german_outputs, german_test_set

from mtcpo.evaluation.document import EvaluationDocument, SetEntry, Versus
from mtcpo.evaluation.results import to_document
from mtcpo.report.terminal_table import print_table
from mtcpo.report.wording import (
    decoding_notes,
    format_delta,
    format_p,
    format_score,
    metric_heading,
    metric_title,
    selection_metric_note,
    summarize,
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


def test_scores_are_formatted_by_their_scale():
    assert format_score(38.249, True) == "38.2"
    assert format_score(0.84125, False) == "0.8413"
    assert format_delta(-0.0121, False) == "-0.0121"
    assert metric_title("chrf++") == "chrF++"
    assert metric_title("mine") == "mine"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0009, "p < 0.001"), (0.001, "p = 0.001"), (0.0499, "p = 0.050"), (0.3, "p = 0.30"), (1.0, "p = 1.00")],
)
def test_p_values_are_formatted_by_their_size(p, text):
    assert format_p(p) == text


@pytest.mark.parametrize(
    ("delta", "bootstrap", "randomization", "holm", "metric", "expected"),
    [
        (1.0, 0.049, 0.049, None, "bleu", "better"),
        (1.0, 0.05, 0.049, None, "bleu", "same"),
        (1.0, 0.049, 0.05, None, "bleu", "same"),
        (1.0, 0.001, 0.001, None, "ter", "worse"),
        (-1.0, 0.001, 0.001, None, "ter", "better"),
        (0.0, 0.001, 0.001, None, "bleu", "same"),
        (1.0, 0.001, 0.002, 0.06, "bleu", "same"),
    ],
)
def test_a_verdict_needs_both_tests_and_the_metrics_direction(delta, bootstrap, randomization, holm, metric, expected):
    entry = entry_of("tuned", tuned=[(1.0, 0.3)] * 3)
    versus = Versus(delta=delta, p_value=bootstrap, p_randomization=randomization, low=0, high=0, p_holm=holm)
    tuned = entry.systems["tuned"].model_copy(update={"versus": {"start": {metric: versus}}})
    changed = entry.model_copy(update={"systems": {**entry.systems, "tuned": tuned}})
    assert changed.verdict("tuned", metric) == expected
    assert changed.verdict("start", metric) == "same"


def test_the_larger_p_value_decides():
    assert Versus(delta=1.0, p_value=0.01, p_randomization=0.02, low=0, high=0).decisive_p == 0.02
    assert Versus(delta=1.0, p_value=0.02, p_randomization=0.01, low=0, high=0).decisive_p == 0.02
    assert Versus(delta=1.0, p_value=0.02, low=0, high=0).decisive_p == 0.02


def with_resamples(entry: SetEntry, resamples: int, systems: int) -> SetEntry:
    """The entry with another number of resamples, and with its first systems only."""
    kept = dict(list(entry.systems.items())[:systems])
    significance = entry.significance.model_copy(update={"resamples": resamples})
    return entry.model_copy(update={"systems": kept, "significance": significance})


def test_too_few_resamples_for_any_verdict_are_reported():
    entry = entry_of("tuned", "other", tuned=[(1.0, 0.3)] * 3, other=[(1.0, 0.3)] * 3)
    for resamples, others in ((39, 2), (19, 1)):
        text = too_few_resamples(with_resamples(entry, resamples, others + 1))
        assert bool(text) == (others / (resamples + 1) >= 0.05)
        few = too_few_resamples(with_resamples(entry, resamples - 1, others + 1))
        assert few.startswith(f"{resamples - 1} resamples are too few for {others} comparison")
    assert too_few_resamples(with_resamples(entry, 1, 1)) == ""


def entry_of(*systems: str, **rows) -> SetEntry:
    """An entry of evaluation.json with BLEU, TER and COMET; rows: system -> (delta, p) of each."""
    metrics = {
        "bleu": {"signature": "s", "higher_is_better": True, "percent": True},
        "ter": {"signature": "s", "higher_is_better": False, "percent": True},
        "comet": {"signature": "s", "higher_is_better": True, "percent": False, "chose_pairs": True},
    }
    base = {"bleu": 30.0, "ter": 50.0, "comet": 0.8}
    entry = {
        "suite": "made-up",
        "src_lang": "en",
        "tgt_lang": "de",
        "origin": "by hand",
        "sha256": "00ff",
        "segments": 2,
        "references": 1,
        "reference_names": ["A"],
        "baseline": "start",
        "significance": {"test": "paired bootstrap", "resamples": 1000, "seed": 1},
        "metrics": metrics,
        "systems": {"start": system_row({name: (score, 0.0) for name, score in base.items()}, {})},
    }
    for system in systems:
        changes = dict(zip(metrics, rows[system], strict=True))
        scores = {name: (base[name], change[0]) for name, change in changes.items()}
        entry["systems"][system] = system_row(scores, {"start": changes})
    return SetEntry.model_validate(entry)


def system_row(scores: dict, changes: dict) -> dict:
    """A system of evaluation.json. scores: metric -> score before and change; changes: metric -> (delta, p)."""
    return {
        "length_ratio": 1.0,
        "empty": 0,
        "copied": 0,
        "metrics": {name: {"score": sum(parts), "ci": 1.0, "signature": "s"} for name, parts in scores.items()},
        "versus": {
            baseline: {
                name: {"delta": delta, "p_value": p, "p_randomisation": p, "low": delta, "high": delta}
                for name, (delta, p) in of_metrics.items()
            }
            for baseline, of_metrics in changes.items()
        },
    }


def plain(sentences) -> list[str]:
    return [sentence.replace("\u00a0", " ") for sentence in sentences]


def test_a_mixed_result_in_words():
    entry = entry_of("tuned", tuned=[(-4.9, 0.0001), (0.3, 0.4), (0.031, 0.002)])
    assert plain(summarize(entry)) == [
        "tuned is better than start on COMET (+0.0310, p = 0.002), but worse than start on BLEU (−4.9, p < 0.001); "
        "no significant difference on TER (+0.30, p = 0.40)."
    ]
    assert selection_metric_note(entry) == (
        "COMET was used to select the training pairs, so a gain on it is weaker evidence."
    )


def with_decoding(entry: SetEntry, **decodings: dict) -> SetEntry:
    """The entry with systems decoded as these fields of evaluation.json say."""
    changed = entry.model_dump(by_alias=True, exclude_unset=True)
    for system, decoding in decodings.items():
        changed["systems"][system]["decoding"] = decoding
        metric = decoding.get("mbr")
        if metric in changed["metrics"]:
            changed["systems"][system]["metrics"][metric]["chose_outputs"] = True
    return SetEntry.model_validate(changed)


def test_a_metric_that_chose_outputs_is_marked_and_explained():
    entry = entry_of("tuned", tuned=[(2.1, 0.0001), (-1.2, 0.003), (0.01, 0.02)])
    beam = {"search": "beam search with 4 beams", "candidates": 1}
    assert decoding_notes(with_decoding(entry, start=beam)) == []
    mbr = {"search": "epsilon sampling", "candidates": 16, "mbr": "bleu", "mbr_signature": "mbr:bleu|..."}
    changed = with_decoding(entry, start=beam, tuned=mbr)
    assert decoding_notes(changed) == [
        "tuned was decoded by minimum Bayes risk with BLEU over 16 candidates (epsilon sampling), so a gain on BLEU is "
        "weaker evidence."
    ]
    assert [metric_heading(changed, name) for name in changed.metrics] == [
        "BLEU ◆", "TER (lower is better)", "COMET ◆",
    ]  # fmt: skip
    many = mbr | {"mbr": "chrf", "candidates": 100, "mbr_signature": "mbr:chrf|...|references:aggregated"}
    # chrF is not among the metrics of this evaluation, so that no gain on it is shown.
    assert decoding_notes(with_decoding(entry, start=many, tuned=many)) == [
        "start and tuned were decoded by minimum Bayes risk with chrF over 100 candidates (epsilon sampling; "
        "references aggregated)."
    ]


def test_a_clear_result_in_words():
    entry = entry_of("tuned", tuned=[(2.1, 0.0001), (-1.2, 0.003), (0.01, 0.02)])
    assert plain(summarize(entry)) == [
        "tuned is better than start on BLEU (+2.1, p < 0.001), TER (−1.2, p = 0.003) and COMET (+0.0100, p = 0.020)."
    ]


def test_no_difference_in_words():
    entry = entry_of("tuned", tuned=[(0.1, 0.3), (-0.1, 0.3), (0.0, 1.0)])
    assert plain(summarize(entry))[0].startswith(
        "tuned does not differ significantly from start: BLEU (+0.10, p = 0.30)"
    )


def test_a_single_system_in_words():
    assert summarize(entry_of()) == (
        "start scores 30.0 BLEU, 50.0 TER and 0.8000 COMET. There is no other system to compare it with.",
    )


def test_many_systems_are_counted_by_metric():
    rows = {name: [(number - 1.5, 0.01), (number - 1.5, 0.01), (0.0, 1.0)] for number, name in enumerate("abcd")}
    sentences = plain(summarize(entry_of(*"abcd", **rows)))
    counted = "of 4 systems, 2 are significantly better than start and 2 worse; the best is"
    assert sentences[0] == f"BLEU: {counted} d with 31.5."
    assert sentences[1] == f"TER: {counted} a with 48.5."
    assert sentences[2].startswith("COMET: of 4 systems, 0 are significantly better than start and 0 worse")


def test_sentences_leave_out_metrics_against_a_single_reference():
    test_set = german_test_set(20)
    two = replace(
        test_set, reference_names=("A", ""),
        segments=tuple(replace(one, references=(*one.references, one.source)) for one in test_set.segments),
    )  # fmt: skip
    for shares in ({"start": 0.3}, {"start": 0.3, "tuned": 0.1}, dict.fromkeys("abcdef", 0.2)):
        entry = evaluate(two, german_outputs(two, shares), each_reference=True).entry
        assert list(entry.metrics)[:4] == ["bleu", "bleu-A", "bleu-unnamed", "chrf"]
        text = " ".join(summarize(entry))
        assert "BLEU" in text
        assert "BLEU-" not in text
        assert "TER-" not in text


def printed(document: EvaluationDocument, width=160) -> str:
    out = StringIO()
    print_table(document, Console(file=out, width=width, color_system=None))
    return out.getvalue()


def test_the_terminal_table_has_scores_marks_and_signatures():
    test_set = german_test_set(40)
    document = to_document([evaluate(test_set, german_outputs(test_set, {"start": 0.3, "[red]tuned": 0.05}))])
    text = printed(document)
    assert "garden en-de: 40 segments" in text
    # A name that looks like the library's markup is shown as it is.
    assert "[red]tuned" in text
    assert "TER (lower is better)" in text
    assert "chrF ◆" in text
    assert "◆ chrF was used to select the training pairs" in text
    assert "p = 0.003 *" in text
    assert "nrefs:1|case:mixed|eff:no|tok:13a" in text
    score = document.pairs["en-de"].score("start", "bleu")
    assert f"{score.score:.1f} ±{score.ci:.1f}" in text


def test_a_single_system_is_not_called_the_baseline():
    test_set = german_test_set(10)
    one, two = (
        printed(to_document([evaluate(test_set, german_outputs(test_set, dict.fromkeys(names, 0.3)))]))
        for names in (["start"], ["start", "tuned"])
    )
    assert "baseline" not in one
    assert "baseline" in two


def test_better_is_green_and_worse_is_red_in_a_terminal_with_colors():
    test_set = german_test_set(40)
    outputs = german_outputs(test_set, {"start": 0.3, "tuned": 0.05, "spoilt": 0.9})
    document = to_document([evaluate(test_set, outputs)])
    out = StringIO()
    print_table(document, Console(file=out, width=160, force_terminal=True, color_system="standard"))
    coloured = dict(re.findall(r"\x1b\[(3[12])m([+-][\d.]+) p", out.getvalue()))
    versus = {name: document.pairs["en-de"].systems[name].versus["start"] for name in ("tuned", "spoilt")}
    assert coloured["32"] in {f"{delta.delta:+.1f}" for delta in versus["tuned"].values()}
    assert coloured["31"] in {f"{delta.delta:+.1f}" for delta in versus["spoilt"].values()}
    assert re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()) == printed(document)


def test_a_narrow_terminal_truncates_no_number():
    test_set = german_test_set(10)
    document = to_document([evaluate(test_set, german_outputs(test_set, {"start": 0.3, "tuned": 0.05}))])
    assert "…" not in printed(document, width=60)


def test_a_pipe_gets_the_full_width_without_colors(capsys):
    test_set = german_test_set(10)
    print_table(to_document([evaluate(test_set, german_outputs(test_set, {"start": 0.3}))]))
    text = capsys.readouterr().out
    assert "start" in text
    assert "\x1b" not in text


def test_a_pipe_breaks_no_number_however_many_metrics(capsys):
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
