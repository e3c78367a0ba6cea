"""Sampling and diverse beam search as logits processors of transformers. V: size of the vocabulary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import EpsilonLogitsWarper, LogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.base import candidate_seed

CUTOFFS: dict[str, Callable[[TranslateConfig], LogitsProcessor]] = {
    "nucleus": lambda config: TopPLogitsWarper(config.top_p),
    "top-k": lambda config: TopKLogitsWarper(config.top_k),
    "epsilon": lambda config: EpsilonLogitsWarper(config.epsilon),
}
"""Kind of sampling -> processor that removes the tokens that are never sampled."""


def uniform_numbers(ids: Sequence[str], config: TranslateConfig, draw: int) -> Tensor:
    """Return random numbers in [0, 1), shape (rows, steps): all segments, then all of them again for each candidate.

    Each candidate has its own generator, seeded by what identifies it: see `Engine.translate`. ids: of the segments.
    """
    rows = []
    for number in range(config.num_candidates):
        for segment_id in ids:
            generator = np.random.Generator(np.random.Philox(candidate_seed(config.seed, segment_id, number, draw)))
            rows.append(generator.random(config.max_new_tokens, dtype=np.float32))
    return torch.from_numpy(np.stack(rows))


class RowProcessor(LogitsProcessor, ABC):
    """A logits processor with something of its own for each row of the batch."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Drop all rows but those with these indices."""


class Draw(RowProcessor):
    """Sample one token per row by inverting the cumulative distribution, and make all others impossible.

    `generate` samples with torch.multinomial, which draws a random number for every token of the vocabulary: on a CPU,
    that takes longer than a small model's forward pass (eval/bench/sampling.py).
    """

    def __init__(self, uniforms: Tensor, start: int) -> None:
        """Set up the draws.

        Args:
            uniforms: random numbers in [0, 1), shape (rows, steps).
            start: the column of `input_ids` where generated tokens start.
        """
        self.uniforms, self.start = uniforms, start

    def keep(self, rows: Tensor) -> None:
        """Drop the random numbers of other rows."""
        self.uniforms = self.uniforms[rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (rows, V): 0 for the sampled token and -inf for all others."""
        cumulative = torch.softmax(scores.float(), dim=-1).cumsum(dim=-1)
        # Rounding may leave the last value below 1. Divided by itself, it is exactly 1, above every random number, so
        # that no token with probability 0 is sampled.
        cumulative /= cumulative[:, -1:].clone()
        step = input_ids.shape[1] - self.start
        sampled = torch.searchsorted(cumulative, self.uniforms[:, step, None].contiguous(), right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, sampled, 0.0)


class DiversityPenalty(RowProcessor):
    """Diverse beam search with groups of one beam (arXiv 1610.02424): a token costs more for each group that chose it.

    A group depends on earlier groups only through their tokens at the same step, so running one group after the other
    gives the same as interleaving them. transformers 5 no longer has group beam search.
    """

    def __init__(self, earlier: Sequence[Tensor], penalty: float, start: int, ends: Tensor) -> None:
        """Set up the penalty.

        Args:
            earlier: generated tokens of the earlier groups, (rows, T) each.
            penalty: nats for each earlier group with the same token at the same step.
            start: the column of `input_ids` where generated tokens start.
            ends: ids of the end tokens.
        """
        self.earlier, self.penalty, self.start, self.ends = earlier, penalty, start, ends

    def keep(self, rows: Tensor) -> None:
        """Drop the tokens that earlier groups chose for other rows."""
        self.earlier = [group[rows] for group in self.earlier]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Lower the scores (rows, V) of tokens that earlier groups chose at this step."""
        step = input_ids.shape[1] - self.start
        scores = torch.log_softmax(scores, dim=-1)
        for group in self.earlier:
            if step < group.shape[1]:
                # After its end, a row is padded, in many models with the end token: the padding was not chosen.
                running = ~torch.isin(group[:, :step], self.ends).any(dim=1, keepdim=True)
                scores = scores.scatter_add(1, group[:, step, None], -self.penalty * running.to(scores.dtype))
        return scores
