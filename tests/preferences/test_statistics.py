from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcpo.data.records import Candidate, Segment
from mtcpo.preferences.chooser import Choice
from mtcpo.preferences.statistics import (
    QUANTILES,
    PairStatistics,
    Reservoir,
    SourceCorrelation,
    distribution,
    histogram_of,
)


def test_correlation_is_taken_within_each_source():
    correlation = SourceCorrelation()
    assert correlation.result() is None
    # Longer is better within each source, though the longer source scores lower.
    for base, score in ((5, 90.0), (50, 10.0)):
        correlation.add([base, base + 1, base + 2], [score, score + 1, score + 2])
    assert correlation.result() == pytest.approx(1)


def test_correlation_of_one_source_equals_numpy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 40)).tolist()
    correlation = SourceCorrelation()
    correlation.add(first, second)
    assert correlation.result() == pytest.approx(np.corrcoef(first, second)[0, 1])


def test_a_reservoir_is_an_even_sample_in_order():
    few = Reservoir(5, seed=1)
    for number in range(4):
        few.add(number)
    assert few.items() == [0, 1, 2, 3]
    counts = np.zeros(50)
    for seed in range(2000):
        sample = Reservoir(5, seed)
        for number in range(50):
            sample.add(number)
        assert sample.items() == sorted(set(sample.items()))
        counts[sample.items()] += 1
    # Each is expected 200 times; the deviation of such a count is 13.4.
    assert counts.sum() == 10000
    assert abs(counts - 200).max() < 5 * 13.4


def test_every_value_is_in_some_bin():
    drawn = histogram_of({"chosen": [1.0] * 98 + [1000.0, -1000.0], "rejected": [2.0, 3.0]})
    assert (sum(drawn.counts["chosen"]), sum(drawn.counts["rejected"]), len(drawn.edges)) == (100, 2, 25)
    equal = histogram_of({"pairs": [7.0, 7.0]})
    assert sum(equal.counts["pairs"]) == 2
    assert equal.edges[0] < 7 < equal.edges[-1]


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=1))
def test_a_distribution_equals_numpy(values):
    found = distribution(array("d", values))
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert list(found.quantiles) == [str(share) for share in QUANTILES]
    expected = np.quantile(values, QUANTILES).tolist()
    assert list(found.quantiles.values()) == pytest.approx(expected, rel=1e-12, abs=1e-6)


def test_quantiles_by_hand():
    quantiles = distribution(array("d", [4.0, 1.0, 2.0])).quantiles
    assert [quantiles[share] for share in ("0.0", "0.25", "0.5", "0.75", "1.0")] == [1, 1.5, 2, 3, 4]


def test_agreement_is_of_scores_that_every_candidate_has():
    statistics = PairStatistics()
    scores = [{"a": 1.0, "b": 2.0, "c": 0.0}, {"b": 4.0, "a": 3.0}]
    candidates = tuple(Candidate(f"s{n}", "text", row) for n, row in enumerate(scores))
    segment = Segment("1", "de", "en", "x", candidates=candidates)
    statistics.add_choice(segment, Choice(candidates=candidates, values=(1.0, 2.0)))
    assert {pair: correlation.result() for pair, correlation in statistics.agreement.items()} == {
        ("a", "b"): pytest.approx(1)
    }
