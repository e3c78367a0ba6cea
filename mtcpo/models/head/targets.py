"""Input and output of the head: labels, the positions that predict them, objectives, scored targets.

Dimensions: B sources, R rows (B times the targets of a source, first targets first), T target tokens, U positions
whose logits are needed, C of them in a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORE = -100
"""The label of a position that does not count."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Token-level scores of the targets of a forward pass, or of some of them.

    All tensors are (R, T), chosen rows first, 0 where there is no label.

    token_logps: log-probability of each label, in nats.
    mean_logps: mean of the log-probabilities over the vocabulary; zeros unless `Head.with_means`.
    labels: token ids, IGNORE where there is none.
    router_loss: scalar, of a mixture of experts.
    loss: scalar over all rows, if the head was given an objective; the only field with gradients.
    """

    token_logps: Tensor
    mean_logps: Tensor
    labels: Tensor
    router_loss: Tensor | None = None
    loss: Tensor | None = None


Objective = Callable[[TokenScores], Tensor]
"""A loss that is a sum over sources: scores of the targets of some sources -> their part of the loss, a scalar."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its head's product z: logits = softcap * tanh(scale * z / softcap), or scale * z."""

    scale: float = 1.0
    softcap: float | None = None

    def apply_(self, logits: Tensor) -> Tensor | None:
        """Transform float32 logits (C, V) in place; return the derivative (C, V), or None if it is constant."""
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is None:
            return None
        logits.div_(self.softcap).tanh_()
        slope = 1 - logits**2
        logits.mul_(self.softcap)
        return slope


@dataclass(frozen=True, slots=True)
class TargetPositions:
    """Which decoder positions need logits, in what order, and which tokens they predict.

    positions: (U,), indices into the states of all rows (rows * positions of a row); those of a source are adjacent.
    slot_of_token: (R, T), for each token the index into `positions` of the position that predicts it; arbitrary for a
        token without a label.
    positions_per_source: B numbers with sum U. A list, because reading it must not wait for the GPU.
    """

    positions: Tensor
    slot_of_token: Tensor
    positions_per_source: list[int]

    def as_batch(self) -> dict[str, Any]:
        """Return the fields as entries of a batch."""
        return {
            "target_positions": self.positions,
            "slot_of_token": self.slot_of_token,
            "positions_per_source": self.positions_per_source,
        }

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any]) -> TargetPositions:
        """Restore the object from the entries of `as_batch`."""
        return cls(batch["target_positions"], batch["slot_of_token"], batch["positions_per_source"])


def locate_targets(labels: Tensor, positions: Tensor, sources: int) -> TargetPositions:
    """Return the needed positions, grouped by source, each only once.

    Later targets share positions with their source's first target as long as they begin with the same tokens.

    Args:
        labels: (R, T), the first targets of all sources come first.
        positions: (R, T), index of the state that predicts each label, counted over the rows of the model's output.
        sources: B.
    """
    has_label = (labels != IGNORE).view(-1, sources, labels.shape[1])
    positions = positions.view(has_label.shape)
    is_new = has_label.clone()
    is_new[1:] &= ~(has_label[:1] & (positions[1:] == positions[:1]))
    # From (targets, B, T) to (B, targets, T): numbering in this order groups positions by source.
    new_by_source = is_new.transpose(0, 1)
    slots = (new_by_source.flatten().cumsum(0) - 1).view(new_by_source.shape).transpose(0, 1).clone()
    slots[1:] = torch.where(is_new[1:], slots[1:], slots[:1])
    needed = positions.transpose(0, 1)[new_by_source]
    return TargetPositions(needed, slots.reshape(labels.shape), new_by_source.sum((1, 2)).tolist())


def group_sources(positions_per_source: Sequence[int], size: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of adjacent sources whose positions fit into a chunk of `size`, with the slices of these positions.

    A source with more positions than `size` is a group of its own.
    """
    first = start = stop = 0
    for source, count in enumerate(positions_per_source):
        if stop - start + count > size and source > first:
            yield slice(first, source), slice(start, stop)
            first, start = source, stop
        stop += count
    if first < len(positions_per_source):
        yield slice(first, len(positions_per_source)), slice(start, stop)


def split_into_chunks(positions: slice, size: int) -> list[slice]:
    """Split positions into chunks of `size`, the last one shorter."""
    return [slice(start, min(start + size, positions.stop)) for start in range(positions.start, positions.stop, size)]
