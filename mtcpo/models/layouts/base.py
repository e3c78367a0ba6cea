"""The interface of the two layouts (text -> token ids -> batches -> log-probabilities), and what they share.

Dimensions: B sources, R rows (B times the targets of a source: B for one, 2B for pairs), S source tokens, T target
tokens, P positions of a row, V vocabulary.

Contract of both layouts: one forward pass gives `token_logps` (R, T), whose entry [i, t] is the log-probability of
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
"""Name -> tensor, or a list for values that Python code reads: reading a tensor would wait for the GPU."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one source and its targets (chosen, then rejected), each target with its end token."""

    source: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Return the number of tokens, without padding."""
        return len(self.source) + sum(len(target) for target in self.targets)


class Encoding(Protocol):
    """Text -> token ids."""

    tokenizer: Any
    max_positions: int | None

    def tokenization_key(self) -> list[str | int | None]:
        """Return what determines, besides the tokenizer, a text's tokens and whether it is too long."""
        ...

    def encode(self, texts: Sequence[TextExample]) -> list[Example]:
        """Tokenize texts; an example without targets is for generation."""
        ...

    def lengths(self, example: Example) -> tuple[int, int]:
        """Return the positions that an example takes in a batch: (once, for each of its targets)."""
        ...

    def longest(self, example: Example) -> int:
        """Return the length of the longest sequence, for comparison with the model's position limit."""
        ...


class Scoring(Protocol):
    """Token ids -> log-probabilities and losses."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad examples to one batch, chosen rows first, with the positions of its labels (`TargetPositions`)."""
        ...

    def count_tokens(self, batch: Batch) -> tuple[Tensor, int]:
        """Return the number of tokens (a tensor on the batch's device), and of positions, padding included."""
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
            objective: the loss to compute, with gradients; without it, only log-probabilities are computed, without
                gradients.
            router_loss: for a mixture of experts, whether to compute its router loss; None: as in the model's config.
        """
        ...

    def model_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the model's own logits (R, T, V), aligned with the labels of `score`, for comparison."""
        ...


class Generation(Protocol):
    """Token ids -> translations."""

    def generation_batch(self, examples: Sequence[Example]) -> Batch:
        """Return the inputs of `generate` for the sources of examples."""
        ...

    def generation_length(self, example: Example, max_new_tokens: int) -> int:
        """Return the positions that the source needs for generation, for comparison with the model's limit."""
        ...

    def generation_settings(self, tgt_lang: str) -> dict[str, Any]:
        """Return the settings of `generate` that depend on the target language."""
        ...

    def new_tokens(self, sequences: Tensor, batch: Batch) -> Tensor:
        """Return the translation part of the sequences that `generate` returned."""
        ...


class Layout(Encoding, Scoring, Generation, Protocol):
    """The whole interface of a layout. Once a model is loaded, no code asks which layout it has."""


def pad_rows(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Pad rows with `value`, on the right or left, to an int64 tensor (R, longest)."""
    width = max(len(row) for row in rows)
    padded = []
    for row in rows:
        padding = [value] * (width - len(row))
        padded.append([*padding, *row] if left else [*row, *padding])
    return torch.tensor(padded)


def target_rows(examples: Sequence[Example]) -> list[tuple[int, ...]]:
    """Return the examples' targets in the order of a batch's rows: all first targets, then all second ones."""
    by_number = zip(*(example.targets for example in examples), strict=True)
    return [target for targets in by_number for target in targets]


def router_option(router_loss: bool | None) -> dict[str, bool]:
    """Return the argument that requests the router loss of a mixture of experts; other models do not accept it."""
    return {} if router_loss is None else {"output_router_logits": router_loss}
