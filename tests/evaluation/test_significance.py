import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest
from support.runs import german_outputs, german_test_set

from mtcpo.evaluation import significance
from mtcpo.evaluation.ranking import Resampled, compare_with_baseline
from mtcpo.evaluation.significance import (
    bootstrap_p_value,
    bootstrap_scores,
    half_width_95,
    holm,
    interval_95,
    randomization_p_value,
    randomized_differences,
    resample_counts,
    significance_clusters,
    swap_masks,
)
from mtcpo.metrics.registry import load_metric


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


def test_the_size_of_blocks_does_not_change_the_draws(monkeypatch):
    whole = np.concatenate(list(resample_counts(50, 101, 7)))
    monkeypatch.setattr(significance, "BLOCK_ELEMENTS", 50 * 7)
    blocks = list(resample_counts(50, 101, 7))
    assert len(blocks) == 15
    assert (np.concatenate(blocks) == whole).all()


def test_bootstrap_draws_equal_sacrebleu():
    drawn = np.random.default_rng(12345).choice(30, size=(20, 30), replace=True)
    expected = np.stack([np.bincount(row, minlength=30) for row in drawn])
    assert (np.concatenate(list(resample_counts(30, 20, 12345))) == expected).all()


def test_scores_on_resamples_of_a_worked_example():
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


def test_bootstrap_p_value_of_a_worked_example():
    # |d| - mean|d| = 1.5 - 2.5, 2.5 - 2.5, 3.5 - 2.5, of which one is above 0.9 in absolute difference.
    differences = np.array([1.5, -2.5, 3.5])
    assert bootstrap_p_value(differences, 0.9) == 2 / 4
    assert bootstrap_p_value(differences, -0.9) == 2 / 4
    assert bootstrap_p_value(differences, 1.0) == 1 / 4


def test_a_system_does_not_differ_from_itself():
    scores = bootstrap_scores([with_ones(np.linspace(0, 1, 50))] * 2, [mean, mean], 100, 1)
    assert bootstrap_p_value(scores[0] - scores[1], 0.0) == 1.0


def test_p_values_are_small_for_a_clear_difference_and_seldom_for_chance():
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
def test_paired_bootstrap_agrees_with_sacrebleu(num_segments, monkeypatch):
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


@pytest.mark.parametrize("num_segments", [2, 33, 150])
def test_approximate_randomization_agrees_with_sacrebleu(num_segments, monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    # Several blocks: the draws must not depend on them.
    monkeypatch.setattr(significance, "BLOCK_ELEMENTS", 64 * num_segments)
    test_set = german_test_set(num_segments)
    outputs = german_outputs(test_set, {"base": 0.2, "close": 0.18, "far": 0.05})
    references = [[segment.references[0] for segment in test_set.segments]]
    metrics = {"BLEU": BLEU(), "chrF2": CHRF(), "TER": TER()}
    _, theirs = PairedTest(list(outputs.items()), metrics, references, test_type="ar", n_samples=401)()
    for ours, name in (("bleu", "BLEU"), ("chrf", "chrF2"), ("ter", "TER")):
        metric = load_metric(ours, "de")
        base, *others = [metric.statistics(texts, test_set.segments) for texts in outputs.values()]
        pairs = [(base, other) for other in others]
        found = randomized_differences(pairs, [metric.corpus_score] * 2, 401, 12345)
        for differences, other, result in zip(found, others, theirs[name][1:], strict=True):
            observed = float(metric.corpus_score(other.sum(axis=0)) - metric.corpus_score(base.sum(axis=0)))
            exact = np.count_nonzero(np.abs(differences - abs(observed)) < 1e-9)
            # sacreBLEU counts what is larger; where a trial is exactly the observed difference, rounding decides.
            p_value = randomization_p_value(differences, observed)
            assert result.p_value - 1e-12 <= p_value <= result.p_value + exact / 402 + 1e-12
            assert exact == 0 or name == "TER" or num_segments == 2


def test_random_swaps_equal_sacrebleu(monkeypatch):
    expected = np.random.default_rng(12345).integers(2, size=(100, 7), dtype=bool)
    assert (np.concatenate(list(swap_masks(7, 100, 12345))) == expected).all()
    monkeypatch.setattr(significance, "BLOCK_ELEMENTS", 1)
    blocks = list(swap_masks(7, 100, 12345))
    assert len(blocks) == 4
    assert (np.concatenate(blocks) == expected).all()


def test_differences_after_swaps_of_a_worked_example():
    first, second = np.array([1.0, 2.0, 4.0]), np.array([0.0, 2.5, 1.0])
    (found,) = randomized_differences([(with_ones(first), with_ones(second))], [mean], 64, 5)
    signs = 2 * np.concatenate(list(swap_masks(3, 64, 5))) - 1
    assert found == pytest.approx(np.abs(signs @ (first - second)) / 3)


def test_randomization_p_value_of_a_worked_example():
    differences = np.array([0.5, 1.0, 2.0])
    assert randomization_p_value(differences, 1.0) == 3 / 4
    assert randomization_p_value(differences, -1.5) == 2 / 4
    assert randomization_p_value(differences, 3.0) == 1 / 4


def test_one_segment_is_never_significant():
    (found,) = randomized_differences([(with_ones([1.0]), with_ones([9.0]))], [mean], 100, 1)
    assert randomization_p_value(found, 8.0) == 1.0


@given(st.integers(2, 9), st.integers(0, 1000))
def test_randomization_is_exact_where_all_swaps_can_be_counted(num_segments, seed):
    values = np.random.default_rng(seed).normal(size=(2, num_segments))
    (found,) = randomized_differences([(with_ones(values[0]), with_ones(values[1]))], [mean], 4000, seed)
    gaps = (values[0] - values[1]) / num_segments
    signs = np.array([[1 if row >> bit & 1 else -1 for bit in range(num_segments)] for row in range(2**num_segments)])
    exact = float((np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-12).mean())
    # Five standard errors of a share of 4,000 trials.
    tolerance = 5 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4001
    assert randomization_p_value(found, float(gaps.sum())) == pytest.approx(exact, abs=tolerance)


def test_holm_correction_of_a_worked_example():
    # 0.01 * 3; 0.02 * 2; 0.03 * 1 would be less than the one before it.
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.4, 0.5]) == [0.8, 0.8]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0, 1))
def test_holm_rejects_what_its_definition_rejects(p_values, level):
    rejected, n = set(), len(p_values)
    for at, index in enumerate(sorted(range(n), key=p_values.__getitem__)):
        if (n - at) * p_values[index] > level:
            break
        rejected.add(index)
    assert {index for index, p_value in enumerate(holm(p_values)) if p_value <= level} == rejected | (
        set(range(n)) if level == 1 else set()
    )


def test_clusters_of_a_worked_example():
    noise = np.random.default_rng(2).normal(scale=0.5, size=(4, 500))
    scores = [10.0, 30.0, 29.9, 10.1]
    draws = [score + row for score, row in zip(scores, noise, strict=True)]
    assert significance_clusters(scores, draws) == [2, 1, 1, 2]
    assert significance_clusters([1.0], [np.ones(5)]) == [1]


def test_a_chain_of_small_steps_is_one_cluster():
    # Each differs from the next but one and not from the next: no line separates all above from all below.
    noise = np.random.default_rng(3).normal(scale=0.5, size=(4, 500))
    scores = [4.0, 3.0, 2.0, 1.0]
    draws = [score + row for score, row in zip(scores, noise, strict=True)]
    assert significance_clusters(scores, draws) == [1, 1, 1, 1]
    wide = [10 * score + row for score, row in zip(scores, noise, strict=True)]
    assert significance_clusters([40.0, 30.0, 20.0, 10.0], wide) == [1, 2, 3, 4]


def test_a_line_between_clusters_needs_every_pair_across_it_to_differ():
    # The second is surely above the third; the first, far above both on average, is above the third by chance.
    wild = np.random.default_rng(4).uniform(-20, 20, size=500)
    scores = [12.0, 11.0, 10.0]
    draws = [12.0 + wild, np.full(500, 11.0), np.full(500, 10.0)]
    assert significance_clusters(scores, draws) == [1, 1, 1]
    assert significance_clusters(scores[1:], draws[1:]) == [1, 2]


def test_a_line_between_clusters_needs_an_interval_that_excludes_zero():
    # A bootstrap's p that is below 0.05, as sacreBLEU computes it, while the interval holds zero.
    difference = np.random.default_rng(5).normal(loc=1.8, size=2000)
    draws = [30 + difference, np.full(2000, 30.0)]
    assert bootstrap_p_value(difference, 1.8) < 0.05
    assert interval_95(difference)[0] < 0
    assert significance_clusters([31.8, 30.0], draws) == [1, 1]
    assert significance_clusters([33.0, 30.0], [draws[0] + 1.2, draws[1]]) == [1, 2]


def test_the_decisive_p_value_errs_in_at_most_one_of_twenty_cases():
    # Systems that are equal but for chance. The bootstrap's p alone is below 0.05 in about one of nine.
    rng, found = np.random.default_rng(6), []
    for seed in range(400):
        a, b = (with_ones(scores) for scores in rng.normal(size=(2, 40)))
        draws = bootstrap_scores([a, b], [mean, mean], 200, seed)
        swaps = randomized_differences([(a, a), (a, b)], [mean, mean], 200, seed)
        scores = [float(mean(one.sum(axis=0))) for one in (a, b)]
        row = compare_with_baseline(["a", "b"], "a", scores, Resampled([a, b], draws, swaps), [a[:, 0], b[:, 0]])["b"]
        found.append((row.p_value < 0.05, row.decisive_p < 0.05, row.low <= 0 <= row.high))
    bootstrap, decided, covered = np.sum(found, axis=0)
    assert bootstrap > 35
    assert decided < 33  # 400 x 5 % and three standard deviations
    assert covered > 360


def real_tables(num_segments):
    """BLEU's and chrF's statistics of two systems, as many segments as are asked for."""
    test_set = german_test_set(200)
    outputs = german_outputs(test_set, {"base": 0.2, "close": 0.18})
    metrics = [load_metric(name, "de") for name in ("bleu", "chrf")]
    tables = [metric.statistics(texts, test_set.segments) for metric in metrics for texts in outputs.values()]
    return [np.tile(table, (num_segments // 200, 1)) for table in tables], [m.corpus_score for m in metrics]


def test_ten_thousand_resamples_of_two_thousand_segments_take_less_than_two_seconds():
    (bleu_a, bleu_b, chrf_a, chrf_b), (bleu, chrf) = real_tables(2000)
    times = []
    for _ in range(3):
        # Of this process and not of the clock: other processes may share the cores.
        started = time.process_time()
        bootstrap_scores([bleu_a, bleu_b, chrf_a, chrf_b], [bleu, bleu, chrf, chrf], 10_000, 12345)
        times.append(time.process_time() - started)
    assert min(times) < 2
    started = time.process_time()
    randomized_differences([(bleu_a, bleu_b), (chrf_a, chrf_b)], [bleu, chrf], 10_000, 12345)
    assert time.process_time() - started < 3
