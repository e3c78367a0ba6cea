import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtcpo.config import load_section
from mtcpo.errors import UserError
from mtcpo.records import Candidate, Segment, Triplet
from mtcpo.selection import (
    ROUNDING,
    SelectionConfig,
    add_references,
    balanced,
    best_worst,
    choose_pair,
    length_log_ratio,
    mean,
    zscore,
)

CHRF = SelectionConfig(metrics=("chrf",))


def segment(*candidates, source="Die Katze.", references=()):
    made = tuple(Candidate(f"s{n}", text, scores) for n, (text, scores) in enumerate(candidates))
    return Segment("1", "de", "en", source, references, candidates=made)


def chrf(*pairs, **kwargs):
    return segment(*((text, {"chrf": score}) for text, score in pairs), **kwargs)


def test_best_and_worst_become_the_triplet():
    choice = choose_pair(chrf(("A cat.", 40), ("The cat.", 90), ("Cat dog.", 20), ("Cats.", 30)), CHRF)
    triplet = choice.triplet
    assert (triplet.chosen, triplet.rejected, triplet.margin) == ("The cat.", "Cat dog.", 70)
    assert (triplet.chosen_system, triplet.rejected_system) == ("s1", "s2")
    assert (triplet.chosen_scores, triplet.rejected_scores) == ({"chrf": 90}, {"chrf": 20})
    assert (triplet.id, triplet.source) == ("1", "Die Katze.")
    assert choice.values == (40, 90, 20, 30)


def test_equal_scores_are_decided_by_order():
    assert best_worst([1, 3, 3, 1]) == (1, 0)


def test_worked_combinations():
    assert mean([[10, 20], [30, 60]]) == [20, 40]
    # chrf 10 20 30: deviation sqrt(200/3), so -+1.2247; comet is 0.5 for all: no opinion; the mean halves it.
    assert zscore([[10, 20, 30], [0.5, 0.5, 0.5]]) == pytest.approx([-math.sqrt(1.5) / 2, 0, math.sqrt(1.5) / 2])
    # On their own scales chrf decides; standardised, comet has as much to say.
    rows = [[50, 51, 52], [0.9, 0.1, 0.1]]
    assert zscore(rows)[0] > zscore(rows)[1]


def test_equal_scores_have_no_deviation_though_their_mean_is_rounded():
    assert zscore([[0.1] * 3, [0.7] * 3]) == [0, 0, 0]


@pytest.mark.parametrize("metrics", [["chrf", "comet"], ["bleu", "xcomet:path"], ["chrf", "kiwi_xxl"]])
def test_mean_over_mixed_scales_names_the_way_out(metrics):
    with pytest.raises(UserError, match=r"the mean of metrics on different scales .* set combine to zscore"):
        load_section(SelectionConfig, {"metrics": metrics}, "prefs")
    assert load_section(SelectionConfig, {"metrics": metrics, "combine": "zscore"}, "prefs").combine == "zscore"


@pytest.mark.parametrize("metrics", [["chrf", "bleu", "ter"], ["comet", "xcomet"], ["kiwi_a", "kiwi_b"]])
def test_mean_over_one_scale_is_allowed(metrics):
    assert load_section(SelectionConfig, {"metrics": metrics}, "prefs").combine == "mean"


def test_wrong_settings_name_the_choices():
    for key, message in [
        ("select", "unknown selection 'x'; choose from best-worst"),
        ("combine", "choose from mean, zscore"),
    ]:
        with pytest.raises(UserError, match=message):
            load_section(SelectionConfig, {"metrics": ["chrf"], key: "x"}, "prefs")
    with pytest.raises(UserError, match="metrics"):
        load_section(SelectionConfig, {"metrics": []}, "prefs")


@pytest.mark.parametrize(
    ("made", "settings", "reason"),
    [
        (chrf(), {}, "no_candidates"),
        (chrf(("The cat.", 90)), {}, "one_candidate"),
        (chrf(("The cat.", 90), ("A cat.", 90)), {}, "tie"),
        (chrf(("The cat.", 90), ("The cat. ", 90)), {}, "same_text"),
        (chrf(("The cat.", 90), ("The cat.", 80)), {"deduplicate": False}, "tie"),
        (chrf(("The cat.", 90), ("", 0)), {}, "empty_text"),
        (chrf(("The cat.", 90), ("Die Katze. ", 30)), {}, "copy_of_source"),
        (chrf(("The cat.", 90), ("A cat.", 86)), {"min_margin": 5}, "small_margin"),
        (chrf(("The cat.", 90), ("The black cat.", 30)), {"max_length_difference": 0.4}, "length_difference"),
        (chrf(("The cat.", 90), ("cat " * 20, 30)), {"max_source_length_ratio": 3}, "source_length_ratio"),
        (chrf(("The cat.", 90), ("A cat.", 86), source=" "), {}, "empty_source"),
    ],
)
def test_reasons(made, settings, reason):
    choice = choose_pair(made, SelectionConfig(metrics=("chrf",), **settings))
    assert (choice.triplet, choice.reason) == (None, reason)


@pytest.mark.parametrize(
    ("made", "settings"),
    [
        (chrf(("The cat.", 90), ("A cat.", 85)), {"min_margin": 5}),
        (chrf(("123456789", 90), ("1234567890", 85)), {"max_length_difference": 0.1}),
        (chrf(("The cat.", 90), ("Die Katze.", 30)), {"drop_copies": False}),
        (chrf(("12345", 90), ("12345678901234567890", 85)), {"max_source_length_ratio": 2}),
    ],
)
def test_limits_themselves_are_allowed(made, settings):
    assert choose_pair(made, SelectionConfig(metrics=("chrf",), **settings)).triplet is not None


def test_unusable_candidates_are_passed_over_and_counted():
    made = chrf(("The cat.", 90), ("", 0), ("Die Katze.", 10), ("A cat.", 50), ("The cat.", 91), ("Cat.", 40))
    choice = choose_pair(made, CHRF)
    assert (choice.triplet.chosen, choice.triplet.rejected) == ("The cat.", "Cat.")
    assert choice.removed == {"empty_text": 1, "copy_of_source": 1, "same_text": 1}
    assert [candidate.text for candidate in choice.candidates] == ["The cat.", "A cat.", "Cat."]


@pytest.mark.parametrize(("verdict", "chosen"), [(2.0, "gpt"), (-0.5, "alma")])
def test_a_human_verdict_wins_and_needs_no_margin(verdict, chosen):
    made = segment(
        ("gpt", {"chrf": 10, "human": verdict}), ("alma", {"chrf": 20, "human": 0.0}), ("reference", {"chrf": 100})
    )
    choice = choose_pair(made, SelectionConfig(metrics=("chrf", "comet"), combine="zscore", min_margin=3))
    assert choice.triplet.chosen == chosen
    assert choice.triplet.margin == abs(verdict)


def test_references_become_candidates_once():
    made = add_references(segment(("a", {}), references=("x", "y")))
    assert [(c.system, c.text) for c in made.candidates] == [("s0", "a"), ("reference", "x"), ("reference-2", "y")]
    assert add_references(made) == made
    assert add_references(segment(("a", {}))).candidates == (Candidate("s0", "a"),)


def test_metrics_that_cancel_out_are_a_tie_in_spite_of_rounding():
    made = segment(("The cat.", {"chrf": 61.7, "comet": 0.31}), ("A cat.", {"chrf": 43.9, "comet": 0.53}))
    choice = choose_pair(made, SelectionConfig(metrics=("chrf", "comet"), combine="zscore"))
    assert choice.reason == "tie"


scored = st.lists(st.tuples(st.sampled_from(["", "Die Katze.", "a", "bb", "cc ", "cc", "ddd d"]), st.floats(0, 100)))


@given(scored, st.floats(0, 50), st.booleans())
def test_a_choice_is_a_triplet_or_a_reason(pairs, min_margin, deduplicate):
    made = chrf(*pairs)
    choice = choose_pair(made, SelectionConfig(metrics=("chrf",), min_margin=min_margin, deduplicate=deduplicate))
    assert (choice.triplet is None) == bool(choice.reason)
    if choice.triplet:
        usable = [score for text, score in pairs if text.strip() and text != "Die Katze."]
        assert choice.triplet.margin >= max(min_margin, ROUNDING)
        assert choice.triplet.chosen.strip() != choice.triplet.rejected.strip()
        assert choice.triplet.margin <= max(usable) - min(usable)


def test_length_log_ratio():
    assert length_log_ratio(Triplet("1", "de", "en", "x", "abcd ", "ab")) == pytest.approx(math.log(2))


def test_worked_balance():
    # The heavy side is the long one, by 1.5: the 1.0 goes first, then one 0.5 brings the sum to zero.
    assert balanced([0.5, 1.0, 0.5, -0.5]) == [False, False, True, True]
    assert balanced([-1.0, 0.3, -0.3]) == [False, True, True]
    # 2.0 is more than twice the excess of 0.8: dropping it would be worse than keeping it.
    assert balanced([2.0, 0.8, -2.0]) == [True, False, True]
    assert balanced([]) == []
    assert balanced([0.2]) == [False]


@given(st.lists(st.integers(-200, 200).map(lambda n: n / 100)))
def test_balance_never_gets_worse_and_drops_only_from_the_heavy_side(ratios):
    keep = balanced(ratios)
    total, kept = math.fsum(ratios), math.fsum(r for r, k in zip(ratios, keep, strict=True) if k)
    assert abs(kept) <= abs(total) + 1e-9
    assert all(r * total > 0 for r, k in zip(ratios, keep, strict=True) if not k)
    # What is left over is less than half of the smallest ratio that could still go.
    heavy = [abs(r) for r, k in zip(ratios, keep, strict=True) if k and r * total > 0]
    assert abs(kept) <= min(heavy, default=math.inf) / 2 + 1e-9 or kept * total <= 0
