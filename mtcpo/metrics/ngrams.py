"""Counting n-grams of all texts of a segment at once: arrays in place of a dictionary for each text and order.

Dimensions: T texts, U different n-grams of one order among them, N orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def characters(texts: Sequence[str]) -> list[Integers]:
    """Return the code points of each text."""
    return [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64) for text in texts]


def words(texts: Sequence[Sequence[str]]) -> list[Integers]:
    """Return each text's words as numbers, the same for the same word in all of them."""
    numbers: dict[str, int] = {}
    return [np.array([numbers.setdefault(word, len(numbers)) for word in text], dtype=np.int64) for text in texts]


def ngram_counts(texts: Sequence[Integers], orders: int) -> Iterator[Integers]:
    """Yield, for n = 1 to N, how often each different n-gram occurs in each text. Shape (T, U), U differs by order.

    An n-gram is numbered by the number of its first n - 1 items and that of its last, so that numbers stay small and
    no hash can collide.
    """
    lengths = np.array([len(text) for text in texts])
    owner = np.repeat(np.arange(len(texts)), lengths)
    # Of each item: how many follow it in its text, itself included.
    left = np.cumsum(lengths)[owner] - np.arange(len(owner))
    _, items = np.unique(np.concatenate(texts), return_inverse=True)
    different = int(items.max(initial=0)) + 1
    starts, grams = np.arange(len(owner)), items
    for n in range(1, orders + 1):
        if n > 1:
            has_next = left[starts] >= n
            starts, grams = starts[has_next], grams[has_next]
            _, grams = np.unique(grams * different + items[starts + n - 1], return_inverse=True)
        size = int(grams.max(initial=0)) + 1
        counts = np.bincount(owner[starts] * size + grams, minlength=len(texts) * size)
        yield counts.reshape(len(texts), size)
