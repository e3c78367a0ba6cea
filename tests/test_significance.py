import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_run import german_outputs, german_test_set
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest

from mtcpo import significance
from mtcpo.metrics import load_metric
from mtcpo.significance import bootstrap_p_value, bootstrap_scores, half_width_95, interval_95, resample_counts


def mean(sums):
    """A metric whose statistics are (score, 1), as COMET's are."""
    return sums[..., 0] / sums[..., 1]


def with_ones(values):
    return np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=1)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**32))
def test_every_resample_draws_as_many_segments_as_there_are(num_segments, resamples, seed):
    counts = np.concatenate(list(resample_counts(num_segments, resamples, seed)))
    assert counts.shape == (resamples, num_segments)
    assert (counts.sum(axis=1) == num_segments).all()
    assert (counts >= 0).all()


def test_blocks_change_nothing(monkeypatch):
    whole = np.concatenate(list(resample_counts(50, 101, 7)))
    monkeypatch.setattr(significance, "BLOCK_ELEMENTS", 50 * 7)
    blocks = list(resample_counts(50, 101, 7))
    assert len(blocks) == 15
    assert (np.concatenate(blocks) == whole).all()


def test_the_draws_are_those_of_sacrebleu():
    drawn = np.random.default_rng(12345).choice(30, size=(20, 30), replace=True)
    expected = np.stack([np.bincount(row, minlength=30) for row in drawn])
    assert (np.concatenate(list(resample_counts(30, 20, 12345))) == expected).all()


def test_scores_on_resamples_by_hand():
    values, other = [1.0, 2.0, 4.0], [0.0, 2.0, 2.0]
    first, second = bootstrap_scores([with_ones(values), with_ones(other)], [mean, mean], 25, 3)
    counts = np.concatenate(list(resample_counts(3, 25, 3)))
    assert first == pytest.approx(counts @ values / 3)
    assert second == pytest.approx(counts @ other / 3)


def test_no_statistics_give_no_scores():
    assert bootstrap_scores([], [], 10, 1) == []


def test_the_interval_leaves_out_a_fortieth_at_each_end():
    scores = np.arange(80.0)[::-1]
    assert interval_95(scores) == (2.0, 77.0)
    assert half_width_95(scores) == 37.5
    assert interval_95(np.array([3.0])) == (3.0, 3.0)


def test_p_value_by_hand():
    # |d| - mean|d| = 1.5 - 2.5, 2.5 - 2.5, 3.5 - 2.5, of which one is above 0.9 in absolute difference.
    differences = np.array([1.5, -2.5, 3.5])
    assert bootstrap_p_value(differences, 0.9) == 2 / 4
    assert bootstrap_p_value(differences, -0.9) == 2 / 4
    assert bootstrap_p_value(differences, 1.0) == 1 / 4


def test_a_system_does_not_differ_from_itself():
    scores = bootstrap_scores([with_ones(np.linspace(0, 1, 50))] * 2, [mean, mean], 100, 1)
    assert bootstrap_p_value(scores[0] - scores[1], 0.0) == 1.0


def test_p_values_of_chance_are_seldom_small_and_of_a_clear_difference_are():
    rng = np.random.default_rng(0)
    small = 0
    for seed in range(60):
        a, b = rng.normal(size=(2, 80))
        first, second = bootstrap_scores([with_ones(a), with_ones(b)], [mean, mean], 200, seed)
        small += bootstrap_p_value(first - second, float(a.mean() - b.mean())) < 0.05
    # Near the one-sided level on either side, 2 x 5 % of 60 trials.
    assert small <= 14
    first, second = bootstrap_scores([with_ones(a), with_ones(a + 0.8 + 0.1 * b)], [mean, mean], 999, 1)
    assert bootstrap_p_value(first - second, -0.8) == 1 / 1000


@pytest.mark.parametrize("num_segments", [1, 2, 150])
def test_agrees_with_sacrebleus_paired_bootstrap(num_segments, monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    test_set = german_test_set(num_segments)
    outputs = german_outputs(test_set, {"base": 0.2, "close": 0.18, "far": 0.05})
    references = [[segment.references[0] for segment in test_set.segments]]
    metrics = {"BLEU": BLEU(), "chrF2": CHRF(), "TER": TER()}
    _, theirs = PairedTest(list(outputs.items()), metrics, references, test_type="bs", n_samples=400)()
    for ours, name in (("bleu", "BLEU"), ("chrf", "chrF2"), ("ter", "TER")):
        metric = load_metric(ours, "de")
        tables = [metric.statistics(texts, test_set.segments) for texts in outputs.values()]
        resampled = bootstrap_scores(tables, [metric.corpus_score] * 3, 400, 12345)
        for at, result in enumerate(theirs[name]):
            score = float(metric.corpus_score(tables[at].sum(axis=0)))
            assert score == pytest.approx(result.score, abs=1e-9)
            assert half_width_95(resampled[at]) == pytest.approx(result.ci, abs=1e-4)
            if at and not math.isclose(score, float(metric.corpus_score(tables[0].sum(axis=0)))):
                difference = score - float(metric.corpus_score(tables[0].sum(axis=0)))
                # One resample's difference for rounding: sacreBLEU sums in float32.
                assert bootstrap_p_value(resampled[at] - resampled[0], difference) == pytest.approx(
                    result.p_value, abs=1.5 / 401
                )


def test_ten_thousand_resamples_are_quick():
    import time

    rng = np.random.default_rng(0)
    tables = [rng.integers(0, 50, size=(2000, 18)).astype(float) for _ in range(4)]
    started = time.perf_counter()
    bootstrap_scores(tables, [lambda sums: sums.sum(axis=-1)] * 4, 10_000, 1)
    assert time.perf_counter() - started < 6
