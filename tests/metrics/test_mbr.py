"""Minimum Bayes risk: each candidate against all of them as if they were references."""

import pytest
from support.scoring import score

from mtcpo.data.records import Candidate, Segment
from mtcpo.data.rows import read_segments
from mtcpo.metrics.registry import load_candidate_metric, load_metric
from mtcpo.preferences.build import PrefsConfig, build_preferences
from mtcpo.preferences.chooser import add_references


def segment(*texts, references=("abcd",)):
    candidates = tuple(Candidate(f"s{n}", text) for n, text in enumerate(texts))
    return Segment("1", "de", "en", "Quelle", tuple(references), candidates=candidates)


def test_expected_utility_worked_by_hand():
    given = segment("abcd", "abcd", "xyz", references=())
    [[first, second, third]] = load_candidate_metric("mbr:chrf", "en").score_candidates([given])
    # Against itself and its twin 100, against "xyz" nothing: two thirds; "xyz" agrees with itself alone.
    assert (first, second, third) == pytest.approx((200 / 3, 200 / 3, 100 / 3))


def test_expected_utility_equals_a_loop_over_the_utility():
    texts = ["the cat sat", "a cat sat down", "the cat", "dogs"]
    given = segment(*texts, references=())
    utility = load_metric("chrf", "en")
    expected = []
    for text in texts:
        scores = [utility.score_candidates([segment(text, references=(other,))])[0][0] for other in texts]
        expected.append(sum(scores) / 4)
    [found] = load_candidate_metric("mbr:chrf", "en").score_candidates([given])
    assert found == pytest.approx(expected)


def test_references_are_scored_but_are_not_pseudo_references():
    given = segment("the cat sat", "a cat sat", references=("the cat was sitting",))
    [with_reference] = score([add_references(given)], ["mbr:chrf"])
    [without] = score([given], ["mbr:chrf"])
    assert [c.scores["mbr"] for c in with_reference.candidates[:2]] == [c.scores["mbr"] for c in without.candidates]
    assert 0 < with_reference.candidates[2].scores["mbr"] < 100


def test_a_new_candidate_changes_the_consensus_of_all():
    [scored] = score([segment("aaaa", "bbbb", references=())], ["mbr:chrf"])
    more = Segment("1", "de", "en", "Quelle", candidates=(*scored.candidates, Candidate("new", "aaaa")))
    [again] = score([more], ["mbr:chrf"])
    assert [c.scores["mbr"] for c in again.candidates] == pytest.approx([200 / 3, 100 / 3, 200 / 3])
    assert list(score([again], ["mbr:chrf"])) == [again]


def test_build_prefs_with_mbr_needs_no_reference(tmp_path):
    given = segment("the cat sat", "the cat sat down", "dogs", "the cat sat there", references=())
    report = build_preferences(
        [given], PrefsConfig(metrics=("mbr:chrf",)), tmp_path / "p.jsonl", scored=tmp_path / "s.jsonl"
    )
    assert report.metrics["mbr"].startswith("mbr:chrf|nrefs:1|")
    [scored] = read_segments(tmp_path / "s.jsonl")
    scores = {c.text: c.scores["mbr"] for c in scored.candidates}
    assert report.chosen_scores["mbr"] == max(scores.values())
    assert report.rejected_scores["mbr"] == scores["dogs"]
