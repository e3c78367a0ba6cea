"""Texts as tokens, as COMET's models read them, and batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

PARTS_OF_A_BATCH = 4
"""A quarter of those tokens is enough to keep the device busy."""


@dataclass(frozen=True)
class Text:
    """A tokenized text, special tokens included. offsets: characters (first, end) of each token."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokens:
    """Tokenizes for a model: each distinct text once, cut where the library cuts it."""

    def __init__(self, encoder: Any) -> None:
        self.tokenizer = encoder.tokenizer
        self.pad = int(encoder.tokenizer.pad_token_id)
        self._max_length = encoder.max_positions
        self._separators = encoder.size_separator

    def __call__(self, texts: Sequence[str]) -> dict[str, Text]:
        """Return the tokens of each text."""
        if not texts:
            return {}
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self._max_length - 2)
        return {text: Text(encoded[at].ids, encoded[at].offsets) for at, text in enumerate(texts)}

    def joined(self, texts: Sequence[Text]) -> list[int]:
        """Return the ids of several texts as one input: <s> a </s></s> b </s>, BERT's with one separator between."""
        # A text may spell the padding token; the library takes it out of what it joins.
        parts = [[token for token in text.ids if token != self.pad][1:-1] for text in texts]
        between = [self.tokenizer.sep_token_id] * self._separators
        ids = [self.tokenizer.cls_token_id, *parts[0]]
        for part in parts[1:]:
            ids += [*between, *part]
        ids.append(self.tokenizer.sep_token_id)
        specials = 1 + len(parts) * self._separators
        return ids[: self._max_length] if sum(map(len, parts)) > self._max_length - specials else ids


def batches(lengths: Sequence[int], tokens: int, groups: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Yield the indices of sequences in batches of like length, of at most so many padded tokens, the longest first.

    A batch that is large enough to keep the device busy ends before a shorter sequence would need padding.

    groups: sequences of different ones are never in one batch.
    """
    keys = groups or [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda index: (keys[index], lengths[index]), reverse=True)
    batch: list[int] = []
    for index in order:
        if batch:
            longest = lengths[batch[0]]
            is_full = (len(batch) + 1) * longest > tokens
            would_pad = lengths[index] < longest and len(batch) * longest * PARTS_OF_A_BATCH >= tokens
            if is_full or would_pad or keys[index] != keys[batch[0]]:
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch
