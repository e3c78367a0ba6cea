"""A prompt and both its targets as one row of a decoder-only model: prompt, chosen, what is left of rejected.

Dimensions: B pairs, R = 2B targets, P positions of a row, T target tokens.

The prompt is run once, and so are the tokens with which both targets begin. A token of rejected sees the prompt, those
tokens and its own predecessors, and has the position that it would have without chosen before it; so every state is
the one that it would be in a row of its own. End tokens are predicted but never read, so they are not in the row.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtcpo.models.head.targets import IGNORE

Row = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Token ids of prompt, chosen, rejected; targets with their end tokens."""

COMMON, CHOSEN, REJECTED, PADDING = 0, 1, 2, -1
"""Parts of a row. COMMON: what both targets go on from."""


def can_pack(model: Any) -> bool:
    """Tell whether a model takes any mask and positions, and gives each token a state that depends on nothing else.

    Attention other than torch's own takes no such mask; the router loss of a mixture of experts counts prompts.
    """
    config = model.config
    # Adapters hand on what they do not know themselves.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and "position_ids" in inspect.signature(base.forward).parameters
        and not hasattr(config, "router_aux_loss_coef")
    )


def attention_window(config: Any) -> int | None:
    """Return how far back the tokens of a model see, where that is bounded: no mask of ours knows of it."""
    window = getattr(config, "sliding_window", None)
    return window if isinstance(window, int) else None


def _begin_alike(row: Row) -> int:
    """Return how many tokens chosen and rejected begin with alike, end tokens left out."""
    most = min(len(row[1]), len(row[2])) - 1
    return next((n for n in range(most) if row[1][n] != row[2][n]), most)


def packed_length(row: Row) -> int:
    """Return how many positions a row takes."""
    return sum(map(len, row)) - 2 - _begin_alike(row)


def pack(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """Pack pairs.

    Returns:
        input_ids, position_ids and parts, (B, P); labels (R, T), chosen rows first; and positions (R, T), where the
        state that predicts each label is among (B, P), counted row by row.
    """
    width, longest = max(map(packed_length, rows)), max(len(target) for row in rows for target in row[1:])
    ids, places, parts = [], [], []
    labels = [[IGNORE] * longest for _ in range(2 * len(rows))]
    positions = [[0] * longest for _ in labels]
    for number, row in enumerate(rows):
        prompt, chosen, rejected = row
        start, alike = len(prompt), _begin_alike(row)
        rest = len(rejected) - 1 - alike
        first = start + len(chosen) - 1
        fill = width - first - rest
        ids.append([*prompt, *chosen[:-1], *rejected[alike:-1], *[pad] * fill])
        places.append([*range(first), *range(start + alike, start + alike + rest), *[0] * fill])
        parts.append([COMMON] * (start + alike) + [CHOSEN] * (len(chosen) - 1 - alike) + [REJECTED] * rest)
        parts[-1] += [PADDING] * fill
        before = [*range(start - 1, start + alike), *range(first, first + rest)]
        for target, where, line in (
            (chosen, range(start - 1, first), number),
            (rejected, before, number + len(rows)),
        ):
            labels[line][: len(target)] = target
            positions[line][: len(target)] = [number * width + place for place in where]
    made = {"input_ids": ids, "position_ids": places, "parts": parts, "labels": labels, "positions": positions}
    return {name: torch.tensor(values) for name, values in made.items()}


def packed_mask(parts: Tensor) -> Tensor:
    """Return which positions see which, (B, 1, P, P): earlier ones of their own part, and what is common."""
    width = parts.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=parts.device).tril()
    return (earlier & ((parts == COMMON)[:, None, :] | (parts[:, None, :] == parts[:, :, None])))[:, None]
