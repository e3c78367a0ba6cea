"""From text to token ids to batches to log-probabilities: what the two layouts share, and their interface.

Dimensions: B sources, R rows (B times the targets of a source: B for one, 2B for pairs), S source tokens, T target
tokens, P positions of a row, V vocabulary.

Contract, whatever the layout: one forward pass gives `token_logps` (R, T), whose entry [i, t] is the log-probability of
labels[i, t]; labels equal to IGNORE (-100) do not count; chosen rows first, rejected rows second.
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
"""Tensors by name; and lists, for what code reads: reading a tensor would wait for the GPU."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one source and its targets (chosen, then rejected), each target with its end token."""

    source: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Return how many real tokens the example has."""
        return len(self.source) + sum(len(target) for target in self.targets)


class Encoding(Protocol):
    """From text to token ids."""

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
        """Return the length of the longest sequence for which the model has to tell positions apart."""
        ...


class Scoring(Protocol):
    """From token ids to log-probabilities and losses."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad examples into one batch, chosen rows first, with the positions of its labels (`TargetPositions`)."""
        ...

    def count_tokens(self, batch: Batch) -> tuple[Tensor, int]:
        """Return how many real tokens a batch has, on its device, and how many positions with padding."""
        ...

    def score(
        self, model: nn.Module, head: Head, batch: Batch, objective: Objective | None = None,
        router_loss: bool | None = None,
    ) -> TokenScores:  # fmt: skip
        """Run the model's own forward pass, with hooks on its head (`Head.scoring`).

        Args:
            model: as wrapped for training.
            head: its head.
            batch: what `collate` made.
            objective: the loss to compute with its gradients; without it there are log-probabilities alone, and these
                have no gradients.
            router_loss: whether to compute it, for a mixture of experts; None: as the model's config says.
        """
        ...

    def model_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the model's own logits (R, T, V), aligned with the labels of `score`, for comparison."""
        ...


class Generation(Protocol):
    """From token ids to translations."""

    def generation_batch(self, examples: Sequence[Example]) -> Batch:
        """Return what `generate` needs for the sources of examples."""
        ...

    def generation_settings(self, tgt_lang: str) -> dict[str, Any]:
        """Return the settings of `generate` that the target language decides."""
        ...

    def new_tokens(self, sequences: Tensor, batch: Batch) -> Tensor:
        """Return the part of what `generate` returned that is translation."""
        ...


class Layout(Encoding, Scoring, Generation, Protocol):
    """All that a layout does; once a model is loaded, no code asks which of the two layouts it has."""


def pad_rows(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Pad to a (R, longest) int64 tensor with `value`, on the right or on the left."""
    width = max(len(row) for row in rows)
    padded = []
    for row in rows:
        padding = [value] * (width - len(row))
        padded.append([*padding, *row] if left else [*row, *padding])
    return torch.tensor(padded)


def target_rows(examples: Sequence[Example]) -> list[tuple[int, ...]]:
    """Return the targets of examples in the order of a batch's rows: all first targets, then all second ones."""
    by_number = zip(*(example.targets for example in examples), strict=True)
    return [target for targets in by_number for target in targets]


def router_option(router_loss: bool | None) -> dict[str, bool]:
    """Return the argument that asks a mixture of experts for its router loss; other models do not accept it."""
    return {} if router_loss is None else {"output_router_logits": router_loss}
