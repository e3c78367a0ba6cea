from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.preferences.chooser import Chooser, SelectionConfig, add_references
from mtcpo.preferences.combining import COMBINATIONS
from mtcpo.preferences.selections import ROUNDING, SELECTIONS, needs_logprobs

CHRF = SelectionConfig(metrics=("chrf",))


def segment(*candidates, source="Die Katze.", references=()):
    made = tuple(Candidate(f"s{n}", text, scores) for n, (text, scores) in enumerate(candidates))
    return Segment("1", "de", "en", source, references, candidates=made)


def choose_pair(made, config):
    return Chooser(config).choose(made)


def chrf(*pairs, **kwargs):
    return segment(*((text, {"chrf": score}) for text, score in pairs), **kwargs)


def test_best_and_worst_become_the_triplet():
    choice = choose_pair(chrf(("A cat.", 40), ("The cat.", 90), ("Cat dog.", 20), ("Cats.", 30)), CHRF)
    [triplet] = choice.triplets
    assert (triplet.chosen, triplet.rejected, triplet.margin) == ("The cat.", "Cat dog.", 70)
    assert (triplet.chosen_system, triplet.rejected_system) == ("s1", "s2")
    assert (triplet.chosen_scores, triplet.rejected_scores) == ({"chrf": 90}, {"chrf": 20})
    assert (triplet.id, triplet.source) == ("1", "Die Katze.")
    assert choice.values == (40, 90, 20, 30)


def test_wrong_settings_name_the_choices():
    for key, message in [
        ("select", f"unknown selection 'x'; choose from {', '.join(sorted(SELECTIONS))}"),
        ("combine", f"unknown combination 'x'; choose from {', '.join(sorted(COMBINATIONS))}"),
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
def test_a_segment_without_a_pair_has_a_reason(made, settings, reason):
    choice = choose_pair(made, SelectionConfig(metrics=("chrf",), **settings))
    assert (choice.triplets, choice.dropped) == ((), {reason: 1})


@pytest.mark.parametrize(
    ("made", "settings"),
    [
        (chrf(("The cat.", 90), ("A cat.", 85)), {"min_margin": 5}),
        (chrf(("123456789", 90), ("1234567890", 85)), {"max_length_difference": 0.1}),
        (chrf(("The cat.", 90), ("Die Katze.", 30)), {"drop_copies": False}),
        (chrf(("12345", 90), ("12345678901234567890", 85)), {"max_source_length_ratio": 2}),
    ],
)
def test_a_value_at_the_limit_is_kept(made, settings):
    assert choose_pair(made, SelectionConfig(metrics=("chrf",), **settings)).triplets


def test_unfit_candidates_are_left_out_and_counted():
    made = chrf(("The cat.", 90), ("", 0), ("Die Katze.", 10), ("A cat.", 50), ("The cat.", 91), ("Cat.", 40))
    choice = choose_pair(made, CHRF)
    [triplet] = choice.triplets
    assert (triplet.chosen, triplet.rejected) == ("The cat.", "Cat.")
    assert choice.removed == {"empty_text": 1, "copy_of_source": 1, "same_text": 1}
    assert [candidate.text for candidate in choice.candidates] == ["The cat.", "A cat.", "Cat."]


@pytest.mark.parametrize(("verdict", "chosen"), [(2.0, "gpt"), (-0.5, "alma")])
def test_human_verdicts_win_over_metrics_and_need_no_margin(verdict, chosen):
    made = segment(
        ("gpt", {"chrf": 10, "human": verdict}), ("alma", {"chrf": 20, "human": 0.0}), ("reference", {"chrf": 100})
    )
    choice = choose_pair(made, SelectionConfig(metrics=("chrf", "comet"), combine="zscore", min_margin=3))
    [triplet] = choice.triplets
    assert triplet.chosen == chosen
    assert triplet.margin == abs(verdict)


def test_references_are_added_as_candidates_only_once():
    made = add_references(segment(("a", {}), references=("x", "y")))
    assert [(c.system, c.text) for c in made.candidates] == [("s0", "a"), ("reference", "x"), ("reference-2", "y")]
    assert add_references(made) == made
    assert add_references(segment(("a", {}))).candidates == (Candidate("s0", "a"),)


def test_metrics_that_cancel_out_are_a_tie_despite_rounding():
    made = segment(("The cat.", {"chrf": 61.7, "comet": 0.31}), ("A cat.", {"chrf": 43.9, "comet": 0.53}))
    choice = choose_pair(made, SelectionConfig(metrics=("chrf", "comet"), combine="zscore"))
    assert choice.dropped == {"tie": 1}


scored = st.lists(st.tuples(st.sampled_from(["", "Die Katze.", "a", "bb", "cc ", "cc", "ddd d"]), st.floats(0, 100)))


@settings(deadline=None)
@given(scored, st.floats(0, 50), st.booleans(), st.sampled_from([n for n in SELECTIONS if not needs_logprobs(n)]))
def test_every_choice_has_triplets_or_reasons(pairs, min_margin, deduplicate, select):
    made = chrf(*pairs)
    config = SelectionConfig(metrics=("chrf",), min_margin=min_margin, deduplicate=deduplicate, select=select)
    choice = choose_pair(made, config)
    assert choice == choose_pair(made, config)
    assert choice.triplets or choice.dropped
    usable = [score for text, score in pairs if text.strip() and text != "Die Katze."]
    for triplet in choice.triplets:
        assert triplet.margin >= max(min_margin, ROUNDING)
        assert triplet.chosen.strip() != triplet.rejected.strip()
        assert triplet.margin <= max(usable) - min(usable)
        assert triplet.margin == pytest.approx(triplet.chosen_scores["chrf"] - triplet.rejected_scores["chrf"])


def test_each_proposed_pair_of_a_source_is_kept_or_has_its_reason():
    made = chrf(("The cat.", 90), ("A cat.", 88), ("Cat dog.", 20), ("Cats.", 50))
    choice = choose_pair(made, SelectionConfig(metrics=("chrf",), select="all-pairs", min_margin=5))
    assert [(t.chosen, t.rejected, t.margin) for t in choice.triplets] == [
        ("The cat.", "Cat dog.", 70), ("The cat.", "Cats.", 40), ("A cat.", "Cat dog.", 68), ("A cat.", "Cats.", 38),
        ("Cats.", "Cat dog.", 30),
    ]  # fmt: skip
    assert choice.dropped == {"small_margin": 1}
    choice = choose_pair(made, SelectionConfig(metrics=("chrf",), select="best-vs-rest"))
    assert [t.rejected for t in choice.triplets] == ["A cat.", "Cat dog.", "Cats."]


def referenced(*scores):
    texts = ["The cat.", "A cat.", "Cat dog."]
    made = segment(*((text, {"chrf": score}) for text, score in zip(texts, scores, strict=False)), references=("It.",))
    reference = Candidate("reference", "It.", {"chrf": scores[-1]})
    return replace(made, candidates=(*made.candidates, reference))


@pytest.mark.parametrize(
    ("reference", "scores", "expected"),
    [
        ("never", (50, 40, 30, 100), [("s0", "s2")]),
        ("by-score", (50, 40, 30, 100), [("reference", "s2")]),
        ("by-score", (50, 40, 30, 45), [("s0", "s2")]),
        ("by-score", (50, 40, 30, 10), [("s0", "reference")]),
        ("always", (50, 40, 30, 100), [("reference", "s2")]),
        ("always", (50, 40, 30, 45), [("reference", "s2")]),
    ],
)
def test_references_take_part_never_by_score_or_always(reference, scores, expected):
    choice = choose_pair(referenced(*scores), SelectionConfig(metrics=("chrf",), reference=reference))
    assert [(t.chosen_system, t.rejected_system) for t in choice.triplets] == expected
    assert choice.removed == ({"reference": 1} if reference == "never" else {})


def test_the_reference_is_always_chosen_but_never_against_the_metric():
    config = SelectionConfig(metrics=("chrf",), reference="always", select="all-pairs")
    choice = choose_pair(referenced(50, 40, 30, 45), config)
    assert [(t.chosen_system, t.rejected_system) for t in choice.triplets] == [("reference", "s1"), ("reference", "s2")]
    assert choice.dropped == {"reference_not_better": 1}
    assert choose_pair(chrf(("a", 1), ("b", 2)), config).dropped == {"no_reference": 1}
    # Of two references the better one; the other takes no part. An output equal to the reference cannot be rejected.
    made = segment(("A", {"chrf": 9}), ("Y", {"chrf": 7}))
    references = (Candidate("reference", "X", {"chrf": 7}), Candidate("reference-2", "Y", {"chrf": 30}))
    choice = choose_pair(replace(made, candidates=(*made.candidates, *references)), config)
    assert [(t.chosen_system, t.rejected_system) for t in choice.triplets] == [("reference-2", "s0")]
    assert choice.removed == {"same_text": 1, "reference": 1}


def test_scores_with_lower_is_better_choose_the_lowest():
    made = segment(("The cat.", {"errors": 1}), ("A cat.", {"errors": 7}), ("Cat.", {"errors": 4}))
    for combine in ("mean", "zscore", "rank", "minimum"):
        config = SelectionConfig(metrics=("errors",), lower_is_better=("errors",), combine=combine)
        [triplet] = choose_pair(made, config).triplets
        assert (triplet.chosen, triplet.rejected) == ("The cat.", "A cat.")
        assert triplet.chosen_scores == {"errors": 1}


def test_weights_of_metrics_decide():
    made = segment(("The cat.", {"chrf": 80, "bleu": 20}), ("A cat.", {"chrf": 60, "bleu": 60}))
    for weights, chosen, margin in [({}, "A cat.", 10), ({"chrf": 3}, "The cat.", 5)]:
        [triplet] = choose_pair(made, SelectionConfig(metrics=("chrf", "bleu"), weights=weights)).triplets
        assert (triplet.chosen, triplet.margin) == (chosen, pytest.approx(margin))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"blue": 1}}, r"weights: unknown metric 'blue' \(did you mean 'bleu'\?\)"),
        ({"weights": {"chrf": 0}}, "each must be above 0"),
        ({"weights": {"chrf": 2}, "combine": "minimum"}, "weights have no effect when combine is 'minimum'"),
        ({"lower_is_better": ["ter"]}, "lower_is_better: unknown metric 'ter'"),
        ({"lower_is_better": ["bleu"]}, "lower_is_better: the direction of bleu is known"),
        ({"select": "confidence", "reference": "always"}, "needs log-probabilities, and a reference has none"),
        ({"reference": "sometimes"}, "reference: Input should be 'never', 'by-score' or 'always'"),
        ({"max_tokens": 9}, "set max_tokens and tokenizer together"),
    ],
)
def test_contradictory_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load_section(SelectionConfig, {"metrics": ["chrf", "bleu"]} | settings, "prefs")
