"""Minimum Bayes risk: each candidate against all of them as if they were references."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from sacrebleu.metrics.chrf import CHRF
from support.scoring import score

from mtcpo.data.records import Candidate, Segment
from mtcpo.data.rows import read_segments
from mtcpo.metrics.base import CandidateMetric
from mtcpo.metrics.mbr import MbrMetric
from mtcpo.metrics.ngrams import characters, ngram_counts, pairwise_matches
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


@pytest.mark.parametrize("name", ["chrf", "chrf++", "bleu", "ter"])
def test_expected_utility_equals_a_loop_over_the_utility(name):
    texts = ["the cat sat", "a cat sat down", "the cat", "the cat sat"]
    given = segment(*texts, references=())
    utility = load_metric(name, "en")
    expected = []
    for text in texts:
        scores = [utility.score_candidates([segment(text, references=(other,))])[0][0] for other in texts]
        expected.append(sum(scores) / 4)
    [found] = load_candidate_metric(f"mbr:{name}", "en").score_candidates([given])
    assert found == pytest.approx(expected)


class CountingMetric(CandidateMetric):
    """The share of characters that two texts have in common, which counts how many pairs it scores."""

    name = "share"
    scored = 0

    def signature(self, num_references, sentence=False):
        return "share"

    def score_candidates(self, segments):
        scores = []
        for given in segments:
            self.scored += len(given.candidates)
            [reference] = given.references
            scores.append(
                [len(set(c.text) & set(reference)) / len(set(c.text) | set(reference)) for c in given.candidates]
            )
        return scores


def test_repeated_texts_are_scored_once_and_count_as_often_as_they_occur():
    utility = CountingMetric()
    [found] = MbrMetric(utility).score_candidates([segment("ab", "ac", "ab", "", "ab", references=())])
    assert utility.scored == 3 * 2  # texts: "ab", "ac" and ""; references: the first two
    one_third = 1 / 3
    assert found == pytest.approx(
        [(3 + one_third) / 4, (1 + 3 * one_third) / 4, (3 + one_third) / 4, 0, (3 + one_third) / 4]
    )


def test_without_any_text_every_candidate_has_utility_0():
    for spec in ("mbr:chrf", "mbr:bleu", "mbr:ter"):
        assert load_candidate_metric(spec, "en").score_candidates([segment("", " ", references=())]) == [[0.0, 0.0]]


def test_both_ways_to_count_matches_agree(monkeypatch):
    texts = ["".join(words) for words in itertools.product(["aab", "abab", "ccc"], repeat=3)]
    for counts in ngram_counts(characters(texts), 4):
        direct = pairwise_matches(counts, counts[:5])
        with monkeypatch.context() as patch:
            patch.setattr("mtcpo.metrics.ngrams.MATCHES_AT_ONCE", 0)
            assert np.array_equal(pairwise_matches(counts, counts[:5]), direct)


@pytest.mark.parametrize(("name", "word_order"), [("chrf", 0), ("chrf++", 2)])
def test_aggregated_references_are_the_mean_of_their_ngram_counts(name, word_order):
    texts = ["the cat sat", "a cat sat down", "cats", "the cat sat"]
    metric = load_metric(name, "en")
    assert metric.can_aggregate
    [found] = MbrMetric(metric, aggregate=True).score_candidates([segment(*texts, references=())])
    assert found == pytest.approx([naive_aggregated_chrf(text, texts, word_order) for text in texts])


def naive_aggregated_chrf(text, references, word_order):
    """chrF against the mean counts of the references, from sacreBLEU's n-grams, one n-gram at a time."""
    scorer = CHRF(word_order=word_order)
    ours, *theirs = [scorer._extract_reference_info([given])["ref_ngrams"][0] for given in (text, *references)]
    precisions, recalls = [], []
    for order, ngrams in enumerate(ours):
        mean = {}
        for counts in theirs:
            for ngram, count in counts[order].items():
                mean[ngram] = mean.get(ngram, 0) + count / len(references)
        matches = sum(min(count, mean.get(ngram, 0)) for ngram, count in ngrams.items())
        if ngrams and mean:
            precisions.append(matches / sum(ngrams.values()))
            recalls.append(matches / sum(mean.values()))
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * 5 * precision * recall / (4 * precision + recall) if precision + recall else 0


def test_one_reference_aggregated_is_that_reference():
    given = replace(segment("the cat sat", "a cat"), references=("the cat is sitting",))
    metric = load_metric("chrf", "en")
    [aggregated] = metric.score_against_aggregate([given])
    assert aggregated.tolist() == metric.score_candidates([given])[0]


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
