"""Count the n-grams of all texts of a segment at once, with arrays: faster than a dictionary for each text.

Dimensions: T texts, U distinct n-grams of one order among them, N orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

MATCHES_AT_ONCE = 100_000
"""Comparisons of n-gram counts up to which comparing them directly is faster than by matrix products."""


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


def pairwise_matches(first: Integers, second: Integers) -> NDArray[np.float64]:
    """Return how many n-grams each text of one side shares with each of the other. Shape (A, U), (B, U) -> (A, B).

    Clipped: an n-gram matches as often as both texts have it.
    """
    if first.size * len(second) <= MATCHES_AT_ONCE:
        direct: NDArray[np.float64] = np.minimum(first[:, None], second).sum(axis=-1).astype(np.float64)
        return direct
    # min(a, b) is the number of t >= 1 with a >= t and b >= t: a sum of matrix products.
    matches = np.zeros((len(first), len(second)))
    for times in range(1, int(min(first.max(initial=0), second.max(initial=0))) + 1):
        # Few n-grams occur often: only their columns take part in later products.
        frequent = (first.max(axis=0) >= times) & (second.max(axis=0) >= times)
        first, second = first[:, frequent], second[:, frequent]
        # float32 is exact for up to 16 million n-grams.
        matches += (first >= times).astype(np.float32) @ (second >= times).astype(np.float32).T
    return matches
