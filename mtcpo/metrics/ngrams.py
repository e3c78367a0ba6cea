"""Count the n-grams of all texts of a segment at once, with arrays: faster than a dictionary for each text.

Dimensions: T texts, U distinct n-grams of one order among them, N orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def characters(texts: Sequence[str]) -> list[Integers]:
    """Return the code points of each text."""
    # surrogatepass: in a broken corpus, a lone surrogate counts as a character, as in Python's len.
    return [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64) for text in texts]


def number_words(texts: Sequence[Sequence[str]]) -> list[Integers]:
    """Return each text's words as numbers; equal words have equal numbers in all texts."""
    numbers: dict[str, int] = {}
    return [np.array([numbers.setdefault(word, len(numbers)) for word in text], dtype=np.int64) for text in texts]


def ngram_counts(texts: Sequence[Integers], orders: int) -> Iterator[Integers]:
    """Yield, for n = 1 to N, how often each distinct n-gram occurs in each text. Shape (T, U); U depends on n.

    An n-gram's number combines that of its first n - 1 items with that of its last item; `unique` then renumbers
    them from 0. So numbers stay small, and there are no hash collisions.
    """
    lengths = np.array([len(text) for text in texts])
    owner = np.repeat(np.arange(len(texts)), lengths)
    # For each item, the number left in its text, itself included: n-grams must not reach into the next text.
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
