"""Tokenize texts as COMET does, and batch them by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MIN_FILL = 4
"""A batch may end early once it has a quarter (1 / MIN_FILL) of its token budget: enough to keep the device busy."""


@dataclass(frozen=True)
class Text:
    """A tokenized text, special tokens included. offsets: character offsets (first, end) of each token."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokens:
    """Tokenizes for a model, and truncates as COMET does."""

    def __init__(self, encoder: Any) -> None:
        self.tokenizer = encoder.tokenizer
        self.pad = int(encoder.tokenizer.pad_token_id)
        self._max_length = encoder.max_positions
        self._separators = encoder.size_separator

    def __call__(self, texts: Sequence[str]) -> dict[str, Text]:
        """Return the tokens of each text."""
        if not texts:
            return {}
        # COMET subtracts two from the encoder's positions for special tokens, although max_length includes them.
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self._max_length - 2)
        return {text: Text(encoded[index].ids, encoded[index].offsets) for index, text in enumerate(texts)}

    def joined(self, texts: Sequence[Text]) -> list[int]:
        """Join several texts to one input: <s> a </s></s> b </s>, or with a single separator for BERT."""
        separator, length = self.tokenizer.sep_token_id, 0
        ids: list[int] = []
        for text in texts:
            # A text may contain the padding token; COMET drops it when it joins texts.
            tokens = text.ids if self.pad not in text.ids else [token for token in text.ids if token != self.pad]
            ids += [separator] * self._separators if ids else [self.tokenizer.cls_token_id]
            ids += tokens[1:-1]
            length += len(tokens) - 2
        ids.append(separator)
        specials = 1 + len(texts) * self._separators
        # Truncated on the right, last separator included, as COMET does in training too.
        return ids[: self._max_length] if length > self._max_length - specials else ids


def batches(lengths: Sequence[int], tokens: int, groups: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Yield the indices of sequences in batches of similar length, the longest first.

    A batch that is large enough to keep the device busy ends before a shorter sequence, which would need padding.

    Args:
        lengths: Tokens of each sequence.
        tokens: Most padded tokens in a batch; a longer sequence is a batch of its own.
        groups: Group of each sequence; different groups are never in the same batch.
    """
    keys = groups or [0] * len(lengths)
    # Longest first: a batch that does not fit into memory fails at once.
    order = sorted(range(len(lengths)), key=lambda index: (keys[index], lengths[index]), reverse=True)
    batch: list[int] = []
    for index in order:
        if batch:
            longest = lengths[batch[0]]
            is_full = (len(batch) + 1) * longest > tokens
            would_pad = lengths[index] < longest and len(batch) * longest * MIN_FILL >= tokens
            if is_full or would_pad or keys[index] != keys[batch[0]]:
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch
