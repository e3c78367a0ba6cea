"""From text to aligned decoder states: what the two layouts have in common, and their interface.

Dimensions: B pairs, R rows (B for one target a source, 2B for pairs), S source tokens, T target tokens.

Contract, whatever the layout: one forward pass gives `token_logps` (R, T), whose position [i, t] is the
log-probability of labels[i, t]; labels equal to IGNORE (-100) do not count; chosen rows first, rejected rows second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mtcpo.models.head.hooks import Head
from mtcpo.models.head.targets import Objective, TokenScores
from mtcpo.models.prompts import TextExample

Batch = dict[str, Any]
"""Tensors by name, and what of it code reads without waiting for a device: lists."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one source and its targets (chosen, then rejected), each target with its end token."""

    source: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Return how many real tokens the example has."""
        return len(self.source) + sum(len(target) for target in self.targets)


class Layout(Protocol):
    """The interface of both layouts; after `layout_for`, no code asks which one it has."""

    tokenizer: Any
    max_positions: int | None

    def tokenization_key(self) -> list[str | int | None]:
        """Return what decides, beside the tokenizer, which tokens a text becomes and whether they are too many."""
        ...

    def encode(self, texts: Sequence[TextExample]) -> list[Example]:
        """Tokenize; an example without targets is for generation."""
        ...

    def lengths(self, example: Example) -> tuple[int, int]:
        """Return how many positions of a batch the example takes: once, and again for each of its targets."""
        ...

    def longest(self, example: Example) -> int:
        """Return the most positions that the model is to tell apart for the example."""
        ...

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad examples into one batch, chosen rows first, with the places of its tokens (see `TargetPositions`)."""
        ...

    def count_tokens(self, batch: Batch) -> tuple[Tensor, int]:
        """Return how many real tokens a batch has, on its device, and how many positions with padding."""
        ...

    def score(
        self, model: nn.Module, head: Head, batch: Batch, objective: Objective | None = None,
        router_loss: bool | None = None,
    ) -> TokenScores:  # fmt: skip
        """Run the model's own forward pass, its head tapped.

        Args:
            model: as wrapped for training.
            head: its head.
            batch: what `collate` made.
            objective: the loss to compute with its gradients; log-probabilities alone have none.
            router_loss: of a mixture of experts; None: as the model's config says.
        """
        ...

    def model_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the model's own logits (R, T, V), aligned with the labels of `score`, for comparison."""
        ...

    def generation_batch(self, examples: Sequence[Example]) -> Batch:
        """Return what `generate` needs for the sources of examples."""
        ...

    def generation_settings(self, tgt_lang: str) -> dict[str, Any]:
        """Return the settings of `generate` that the target language decides."""
        ...

    def new_tokens(self, sequences: Tensor, batch: Batch) -> Tensor:
        """Return the part of what `generate` returned that is translation."""
        ...


def pad_rows(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Pad to a (R, longest) int64 tensor with `value`, on the right or on the left."""
    width = max(len(row) for row in rows)
    fill = [[value] * (width - len(row)) for row in rows]
    return torch.tensor([[*pad, *row] if left else [*row, *pad] for row, pad in zip(rows, fill, strict=True)])


def router_option(router_loss: bool | None) -> dict[str, bool]:
    """Return the argument of a mixture of experts that asks for its router loss; other models do not know it."""
    return {} if router_loss is None else {"output_router_logits": router_loss}
