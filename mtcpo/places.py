"""Which positions meet the vocabulary, in what order, and in which chunks.

That is known where a batch is made. To find it out on a GPU, in the middle of a step, would make us wait for the GPU.

Dimensions: R rows (B sources times their targets, the first targets of all first), T target tokens, U positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtcpo.scored import IGNORE


@dataclass(frozen=True, slots=True)
class Places:
    """Which positions are needed, in what order, and by which tokens.

    order (U,): positions, all of a source together. slots (R, T): each token's place in that order; of a token without
    label, any number. counts: how many positions each source needs.
    """

    order: Tensor
    slots: Tensor
    counts: list[int]

    def as_batch(self) -> dict[str, Any]:
        """Return them as parts of a batch; the counts stay where they are when that goes to its device."""
        return {"order": self.order, "slots": self.slots, "counts": self.counts}

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> Places:
        """Return those of a batch."""
        return cls(batch["order"], batch["slots"], batch["counts"])


def place_tokens(labels: Tensor, positions: Tensor, sources: int) -> Places:
    """Order the positions of tokens by source; tokens of a source's first target share theirs with others.

    Args:
        labels: (R, T), the first targets of all sources first.
        positions: (R, T), where the state that predicts each label is in (rows, positions of a row), counted row by
            row.
        sources: B.
    """
    real = (labels != IGNORE).view(-1, sources, labels.shape[1])
    where = positions.view(real.shape)
    own = real.clone()
    own[1:] &= ~(real[:1] & (where[1:] == where[:1]))
    by_source = own.transpose(0, 1)
    slots = (by_source.flatten().cumsum(0) - 1).view(by_source.shape).transpose(0, 1).clone()
    slots[1:] = torch.where(own[1:], slots[1:], slots[:1])
    return Places(where.transpose(0, 1)[by_source], slots.reshape(labels.shape), by_source.sum((1, 2)).tolist())


def groups(counts: Sequence[int], size: int) -> Iterator[tuple[slice, slice]]:
    """Yield neighbouring sources whose positions fit into a chunk of `size`, with those; one source at least."""
    first = start = stop = 0
    for source, count in enumerate(counts):
        if stop - start + count > size and source > first:
            yield slice(first, source), slice(start, stop)
            first, start = source, stop
        stop += count
    if first < len(counts):
        yield slice(first, len(counts)), slice(start, stop)


def chunks_of(positions: slice, size: int) -> list[slice]:
    """Part positions into chunks of `size`, the last one shorter."""
    return [slice(start, min(start + size, positions.stop)) for start in range(positions.start, positions.stop, size)]
