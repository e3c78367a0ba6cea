"""Batches of sources: by language and length, up to a number of tokens, and half as large where memory runs out."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from mtcpo.data.records import Segment
from mtcpo.translation.config import TranslateConfig

LOG = logging.getLogger(__name__)

Result = TypeVar("Result")


def make_batches(
    order: Sequence[int], segments: Sequence[Segment], lengths: Sequence[int], config: TranslateConfig
) -> list[list[int]]:
    """Split `order` into batches of segments with the same target language.

    A batch has at most `config.batch_size` sources, and `config.batch_tokens` tokens: sources times rows of each times
    the length of the longest. A source that is longer than that is a batch by itself.

    order: indices of segments, by language and, in each, longest first. lengths: tokens of each segment's source.
    """
    budget = config.batch_tokens // rows_of(config)
    batches: list[list[int]] = []
    for i in order:
        last = batches[-1] if batches else []
        is_full = len(last) == config.batch_size or (bool(last) and (len(last) + 1) * lengths[last[0]] > budget)
        if not last or is_full or segments[last[0]].tgt_lang != segments[i].tgt_lang:
            batches.append([])
        batches[-1].append(i)
    return batches


def rows_of(config: TranslateConfig) -> int:
    """Return how many rows of a batch a source takes: its beams or its samples."""
    if config.sampling == "diverse":
        return 1  # one search after the other
    return config.num_beams if config.sampling == "beam" else config.num_candidates


def halving(indices: list[int], run: Callable[[list[int]], Result]) -> Iterator[tuple[list[int], Result]]:
    """Yield `indices` with what `run` returns for them; in two halves, and so on, where memory does not suffice.

    Raises:
        torch.OutOfMemoryError: memory does not suffice for a single index.
    """
    result = None
    try:
        result = run(indices)
    except torch.OutOfMemoryError:
        if len(indices) == 1:
            raise
        _warn_of_memory()
    if result is not None:
        yield indices, result
        return
    # Outside of the handler: its exception keeps the tensors of the failed attempt alive.
    torch.cuda.empty_cache()
    middle = len(indices) // 2
    yield from halving(indices[:middle], run)
    yield from halving(indices[middle:], run)


@functools.cache
def _warn_of_memory() -> None:
    # Once: every later batch of this size is divided too.
    LOG.warning(
        "mtcpo: batches that do not fit into memory are divided and tried again; a lower batch_size or batch_tokens "
        "saves that time"
    )
