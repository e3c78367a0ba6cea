import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.preferences.chooser import Chooser, SelectionConfig
from mtcpo.preferences.combining import (
    COMBINATIONS,
    Moments,
    SetStatistics,
    combine_scores,
    minimum,
    moments_of,
    rank,
    weighted_mean,
    zscore,
)


def test_combinations_by_hand():
    assert weighted_mean([[10, 20], [30, 60]], [1, 1]) == [20, 40]
    assert weighted_mean([[10, 20], [30, 60]], [3, 1]) == [15, 30]
    # chrf 10 20 30: deviation sqrt(200/3), so -+1.2247; comet is 0.5 for all: no opinion; the mean halves it.
    expected = [-math.sqrt(1.5) / 2, 0, math.sqrt(1.5) / 2]
    assert zscore([[10, 20, 30], [0.5, 0.5, 0.5]], [1, 1]) == pytest.approx(expected)
    # On their own scales chrf decides; standardised, comet has as much to say, and with a weight more.
    rows = [[50, 51, 52], [0.9, 0.1, 0.1]]
    assert zscore(rows, [1, 1])[0] > zscore(rows, [1, 1])[1]
    assert zscore(rows, [9, 1])[0] < zscore(rows, [9, 1])[2]
    assert minimum([[1, 5], [4, 2]], [1, 1]) == [1, 2]


def test_ranks_by_hand():
    # 10 < 20 = 20 < 90: ranks 0, 1.5, 1.5, 3 of 3.
    assert rank([[10, 20, 90, 20]], [1]) == [0, 0.5, 1, 0.5]
    assert rank([[1, 2, 3], [30, 20, 10]], [1, 1]) == [0.5, 0.5, 0.5]
    assert rank([[7]], [1]) == [0]


def test_equal_scores_have_no_deviation_though_their_mean_is_rounded():
    assert zscore([[0.1] * 3, [0.7] * 3], [1, 1]) == [0, 0, 0]


@pytest.mark.parametrize("combine", ["mean", "minimum"])
@pytest.mark.parametrize(
    "metrics", [["chrf", "comet"], ["mbr:comet", "bleu"], ["bleu", "xcomet:path"], ["chrf", "kiwi_xxl"]]
)
def test_a_mean_over_different_scales_is_refused(metrics, combine):
    with pytest.raises(UserError, match=rf"the {combine} of metrics on different scales .* set combine to zscore"):
        load_section(SelectionConfig, {"metrics": metrics, "combine": combine}, "prefs")
    for free in ("zscore", "zscore-set", "rank"):
        assert load_section(SelectionConfig, {"metrics": metrics, "combine": free}, "prefs").combine == free


@pytest.mark.parametrize(
    "metrics", [["chrf", "bleu", "ter"], ["comet", "xcomet"], ["kiwi_a", "kiwi_b"], ["mbr:chrf", "bleu"]]
)
def test_mean_over_one_scale_is_allowed(metrics):
    assert load_section(SelectionConfig, {"metrics": metrics}, "prefs").combine == "mean"


def test_margins_by_zscore_set_are_small_if_candidates_hardly_differ():
    # By source, half a point on an easy source counts as much as forty on a hard one.
    easy = Segment(
        "1", "de", "en", "x", candidates=(Candidate("a", "A", {"m": 90.5}), Candidate("b", "B", {"m": 90.0}))
    )
    hard = Segment(
        "2", "de", "en", "y", candidates=(Candidate("a", "A", {"m": 70.0}), Candidate("b", "B", {"m": 30.0}))
    )
    statistics = SetStatistics(["m"])
    for segment in (easy, hard):
        statistics.add(segment)
    moments = statistics.moments("de", "en")["m"]
    assert moments.mean == pytest.approx(70.125)
    assert moments.deviation == pytest.approx(np.std([90.5, 90, 70, 30]))
    margins = {}
    for combine in ("zscore", "zscore-set"):
        chooser = Chooser(SelectionConfig(metrics=("m",), combine=combine))
        margins[combine] = [chooser.choose(s, {"m": moments}).triplets[0].margin for s in (easy, hard)]
    assert margins["zscore"] == pytest.approx([2, 2])
    assert margins["zscore-set"] == pytest.approx([0.5 / moments.deviation, 40 / moments.deviation])


def test_language_pairs_have_moments_of_their_own():
    statistics = SetStatistics(["m"])
    for lang, score in (("de", 1.0), ("de", 3.0), ("zh", 50.0)):
        statistics.add(Segment("1", "en", lang, "x", candidates=(Candidate("a", "A", {"m": score}),)))
    assert statistics.moments("en", "de")["m"] == Moments(2.0, 1.0)
    assert statistics.moments("en", "zh")["m"] == Moments(50.0, 0.0)


rows = st.integers(1, 5).flatmap(
    lambda k: st.lists(st.lists(st.floats(-100, 100), min_size=k, max_size=k), min_size=1, max_size=3)
)


@settings(deadline=None)
@given(rows, st.sampled_from(sorted(COMBINATIONS)))
def test_a_candidate_better_by_every_metric_has_no_lower_value(made, combine):
    scores = {f"m{n}": row for n, row in enumerate(made)}
    values = combine_scores(scores, combine, {"m0": 2.0}, {name: moments_of(row) for name, row in scores.items()})
    assert len(values) == len(made[0])
    for a in range(len(values)):
        for b in range(len(values)):
            if all(row[a] >= row[b] for row in made):
                assert values[a] >= values[b] - 1e-9


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_one_pass_statistics_equal_numpy(values):
    statistics = SetStatistics(["m"])
    for value in values:
        statistics.add(Segment("1", "de", "en", "x", candidates=(Candidate("a", "A", {"m": value}),)))
    moments = statistics.moments("de", "en")["m"]
    assert moments.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert moments.deviation == pytest.approx(np.std(values), rel=1e-6, abs=1e-6)
