"""Batches by language and number of tokens, and what happens when memory runs out."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.translation import quick_search

from mtcpo.data.records import Segment
from mtcpo.translation import batches
from mtcpo.translation.batches import halving, make_batches, rows_of


@given(
    st.lists(st.tuples(st.sampled_from(["de", "fr", "zh"]), st.integers(1, 30)), max_size=20),
    st.integers(1, 6),
    st.integers(1, 200),
)
@hypothesis_settings(max_examples=60)
def test_a_batch_keeps_its_limits_and_has_one_target_language(sources, size, tokens):
    segments = [Segment(str(n), "en", language, "x") for n, (language, _) in enumerate(sources)]
    lengths = [length for _, length in sources]
    order = sorted(range(len(segments)), key=lambda n: (segments[n].tgt_lang, -lengths[n]))
    config = quick_search(batch_size=size, batch_tokens=tokens)
    found = make_batches(order, segments, lengths, config)
    assert [n for batch in found for n in batch] == order
    for batch in found:
        assert 1 <= len(batch) <= size
        assert len({segments[n].tgt_lang for n in batch}) == 1
        # Two beams for each source.
        assert len(batch) == 1 or 2 * len(batch) * max(lengths[n] for n in batch) <= tokens


def test_batches_are_as_full_as_their_budget():
    segments = [Segment(str(n), "en", "de", "x") for n in range(7)]
    lengths = [50, 10, 10, 10, 5, 5, 5]
    config = quick_search(batch_tokens=60, num_beams=2)
    # 2 * 3 * 10 = 60 tokens; the first source has 100 by itself.
    assert make_batches(range(7), segments, lengths, config) == [[0], [1, 2, 3], [4, 5, 6]]


def test_a_source_has_a_row_for_each_beam_or_sample():
    assert rows_of(quick_search(num_beams=5, num_candidates=2)) == 5
    assert rows_of(quick_search(sampling="epsilon", num_beams=5, num_candidates=8)) == 8
    assert rows_of(quick_search(sampling="diverse", num_candidates=8)) == 1


def test_a_batch_that_does_not_fit_is_divided(caplog):
    batches._warn_of_memory.cache_clear()
    tried = []

    def run(indices):
        tried.append(len(indices))
        if len(indices) > 2:
            raise torch.OutOfMemoryError("no memory")
        return [10 * index for index in indices]

    with caplog.at_level(logging.WARNING):
        found = list(halving([1, 2, 3, 4, 5], run))
    assert found == [([1, 2], [10, 20]), ([3], [30]), ([4, 5], [40, 50])]
    assert tried == [5, 2, 3, 1, 2]
    assert caplog.text.count("batches that do not fit into memory are divided") == 1


def test_a_single_source_that_does_not_fit_is_an_error():
    def run(indices):
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(halving([1, 2], run))
