"""Sampling and diversity as logits processors of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import EpsilonLogitsWarper, LogitsProcessor, TopPLogitsWarper

from mtcpo.translation.config import TranslateConfig

CUTOFFS: dict[str, Callable[[TranslateConfig], LogitsProcessor]] = {
    "nucleus": lambda c: TopPLogitsWarper(c.top_p),
    "epsilon": lambda c: EpsilonLogitsWarper(c.epsilon),
}
"""What each kind of sampling never draws."""


class Draw(LogitsProcessor):
    """Draw one token a row, by a random number's place in the cumulative distribution; no other token stays possible.

    torch.multinomial, by which `generate` draws, makes a random number for every token of the vocabulary: on CPU that
    takes longer than a small model's own arithmetic (eval/bench/sampling.py).
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (rows, V) of 0 for the token drawn and -inf for all others."""
        cumulative = torch.softmax(scores.float(), dim=-1).cumsum(dim=-1)
        # The last value is exactly 1 then, and a random number is below 1: nothing of probability 0 can be drawn.
        cumulative /= cumulative[:, -1:].clone()
        drawn = torch.searchsorted(cumulative, torch.rand_like(cumulative[:, :1]), right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


class DiversityPenalty(LogitsProcessor):
    """Diverse beam search with groups of one (arXiv 1610.02424): a token costs more each time an earlier group took it.

    A group depends on earlier groups only by their tokens at the same step, so running the groups one after the other
    is the same as interleaving them; transformers 5 no longer has a group beam search of its own.
    """

    def __init__(self, earlier: Sequence[Tensor], penalty: float, start: int, ends: Tensor) -> None:
        """Take the new tokens of earlier groups, the column where new tokens start, and the end tokens."""
        self.earlier, self.penalty, self.start, self.ends = earlier, penalty, start, ends

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Lower the scores (rows, V) of the tokens that earlier groups, each (rows, T), have at this step."""
        step = input_ids.shape[1] - self.start
        scores = torch.log_softmax(scores, dim=-1)
        for group in self.earlier:
            if step < group.shape[1]:
                # What follows the end is padding, in many models the end token again, and nothing that was taken.
                running = ~torch.isin(group[:, :step], self.ends).any(dim=1, keepdim=True)
                scores = scores.scatter_add(1, group[:, step, None], -self.penalty * running.to(scores.dtype))
        return scores
