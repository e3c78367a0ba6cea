"""What the head is told and what it answers: labels, transforms of logits, losses, and scored targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORE = -100
"""The label of a position that does not count."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Targets of a forward pass, or some of them: all (R, T), chosen rows first; 0 where there is no label.

    mean_logps: mean over the vocabulary of log-probabilities; zeros unless the head was asked for them. router_loss: of
    a mixture of experts. loss: of the whole, where one was asked for; it alone has gradients.
    """

    token_logps: Tensor
    mean_logps: Tensor
    labels: Tensor
    router_loss: Tensor | None = None
    loss: Tensor | None = None


Objective = Callable[[Scored], Tensor]
"""A loss that is a sum over sources, of any of which it can be given the targets: -> scalar."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its head's product: logits = softcap * tanh(scale * z / softcap), or scale * z."""

    scale: float = 1.0
    softcap: float | None = None

    def apply_(self, logits: Tensor) -> Tensor | None:
        """Apply to float32 logits (C, V) in place; return the derivative (C, V) where it is no constant."""
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is None:
            return None
        logits.div_(self.softcap).tanh_()
        slope = 1 - logits**2
        logits.mul_(self.softcap)
        return slope


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
