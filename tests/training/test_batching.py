import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcpo.training import batching
from mtcpo.training.batching import BatchLimits, LengthBatchSampler

lengths_strategy = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=60)
limits_strategy = st.builds(
    BatchLimits, st.integers(1, 9), st.one_of(st.none(), st.integers(1, 400)), st.sampled_from([1, 2])
)


def length_batches(*args, **options):
    return [batch.tolist() for batch in batching.length_batches(*args, **options)]


def divide_evenly(batches, processes):
    return [batch.tolist() for batch in batching.divide_evenly([np.array(batch) for batch in batches], processes)]


def padded(batch, lengths, targets):
    encoder, decoder = (max(lengths[i][side] for i in batch) for side in (0, 1))
    return len(batch) * (encoder + targets * decoder)


def test_a_worked_example_of_batches():
    # Sorted by target length: 2, 3, 4, 9 tokens. Pairs: 2 targets each. 2 x (5 + 2 x 3) = 22 fits, a third does not.
    lengths = [(5, 9), (5, 2), (4, 3), (1, 4)]
    assert length_batches(lengths, BatchLimits(examples=8, tokens=22, targets=2), seed=0) == [[1, 2], [3], [0]]
    assert length_batches(lengths, BatchLimits(examples=3), seed=0) == [[1, 2, 3], [0]]
    assert length_batches([], BatchLimits(examples=3), seed=0) == []
    # A new batch knows nothing of the long source before it: 3 x (1 + 2 x 3) = 21 fits.
    lengths = [(20, 2), (1, 3), (1, 3), (1, 3)]
    first, second = length_batches(lengths, BatchLimits(examples=8, tokens=24, targets=2), seed=0)
    assert (first, sorted(second)) == ([0], [1, 2, 3])


@given(lengths_strategy, limits_strategy, st.integers(0, 5))
def test_batches_are_a_partition_within_the_budget(lengths, limits, seed):
    batches = length_batches(lengths, limits, seed)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= limits.examples
        # An example beyond the budget has a batch of its own.
        assert len(batch) == 1 or limits.tokens is None or padded(batch, lengths, limits.targets) <= limits.tokens


@given(lengths_strategy.filter(bool), limits_strategy, st.integers(1, 5), st.integers(0, 3))
def test_every_example_once_an_epoch_over_all_processes(lengths, limits, processes, epoch):
    samplers = [LengthBatchSampler(lengths, limits, 7, True, rank, processes) for rank in range(processes)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    shares = [list(sampler) for sampler in samplers]
    assert len({len(share) for share in shares}) == 1, "processes take different numbers of steps"
    assert all(len(share) == len(sampler) for share, sampler in zip(shares, samplers, strict=True))
    seen = Counter(i for share in shares for batch in share for i in batch)
    if len(lengths) >= processes:
        assert seen == Counter(range(len(lengths)))
    else:
        assert set(seen) == set(range(len(lengths)))


def test_single_examples_are_joined_rather_than_repeated():
    batches = [[4], [2], [0], [1], [3]]  # shortest first
    assert divide_evenly(batches, 4) == [[4, 2], [0], [1], [3]]
    assert divide_evenly(batches, 3) == [[4, 2], [0, 1], [3]]
    assert divide_evenly(batches, 5) == batches
    assert divide_evenly([[0], [1]], 3) == [[0], [1], [0]]
    assert divide_evenly([], 3) == []


def test_largest_batches_are_split():
    assert divide_evenly([[0, 1, 2, 3], [4, 5]], 3) == [[0, 1], [2, 3], [4, 5]]
    assert divide_evenly([[0, 1, 2]], 2) == [[0], [1, 2]]


def test_processes_step_together_with_like_lengths():
    lengths = [(0, n) for n in range(1, 65)]
    limits = BatchLimits(examples=4)
    shares = [list(LengthBatchSampler(lengths, limits, 0, True, rank, 2)) for rank in (0, 1)]
    for left, right in zip(*shares, strict=True):
        assert abs(lengths[left[0]][1] - lengths[right[0]][1]) <= 4


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_a_seed_fixes_the_batches_and_each_epoch_has_another_order(seed):
    lengths = [(random.Random(n).randint(1, 9), n % 7 + 1) for n in range(80)]
    make = lambda seed: LengthBatchSampler(lengths, BatchLimits(examples=4), seed)  # noqa: E731
    first, again = make(seed), make(seed)
    assert list(first) == list(again)
    # Two seeds may happen to part the ties alike, four hardly.
    assert any(sorted(map(sorted, first)) != sorted(map(sorted, make(seed + n))) for n in (1, 2, 3))
    order = list(first)
    first.set_epoch(1)
    assert list(first) != order
    assert sorted(first) == sorted(order)
    first.set_epoch(0)
    assert list(first) == order


def test_the_seed_decides_the_order_of_equal_batches():
    lengths = [(1, n) for n in range(40)]
    orders = [list(LengthBatchSampler(lengths, BatchLimits(examples=4), seed)) for seed in range(4)]
    assert len({tuple(map(tuple, order)) for order in orders}) > 1
    assert len({tuple(sorted(map(tuple, order))) for order in orders}) == 1


def test_without_shuffling_the_order_is_by_length():
    lengths = [(1, 5), (1, 3), (1, 4)]
    sampler = LengthBatchSampler(lengths, BatchLimits(examples=1), 0, shuffle=False)
    sampler.set_epoch(3)
    assert list(sampler) == [[1], [2], [0]]
    alike = LengthBatchSampler([(9, 5), (1, 5), (4, 5)], BatchLimits(examples=1), 0, shuffle=False)
    assert list(alike) == [[1], [2], [0]]


def test_batches_of_like_length_save_padding():
    generator = random.Random(0)
    lengths = [(n, n + generator.randint(-1, 1)) for n in (generator.randint(4, 60) for _ in range(400))]
    real = sum(source + 2 * target for source, target in lengths)
    by_length = sum(padded(batch, lengths, 2) for batch in length_batches(lengths, BatchLimits(8, None, 2), 0))
    in_order = sum(padded(range(i, i + 8), lengths, 2) for i in range(0, 400, 8))
    assert 1 - real / by_length < 0.05
    assert 1 - real / in_order == pytest.approx(0.4, abs=0.1)
