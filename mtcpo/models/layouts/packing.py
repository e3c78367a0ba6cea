"""Pack a prompt and both its targets into one row of a decoder-only model: prompt, chosen, rest of rejected.

Dimensions: B pairs, R = 2B targets, P positions of a row, T target tokens.

The prompt and the common beginning of both targets run through the model only once. A token of rejected attends to the
prompt, the common beginning and its own predecessors, and gets the position that it would have without chosen; so every
state equals that in a separate row (prefix sharing, arXiv 2410.20305). End tokens are predicted but never read, so they
are not in the row. For the prompt 11 12, chosen 21 22 E and rejected 21 23 E:

    input_ids      11  12  21  22  23
    position_ids    0   1   2   3   3
    parts           0   0   0   1   2       common, chosen, rejected
    predicts           21  22   E           of chosen
                       21  23       E       of rejected
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
"""Parts of a row. COMMON: the prompt, and what both targets begin with."""


def can_pack(model: Any) -> bool:
    """Whether a model takes arbitrary masks and positions, and a token's state depends only on what it attends to.

    Only torch's own attention (sdpa) takes such masks. The router loss of a mixture of experts counts prompt tokens,
    and packing would change their number.
    """
    config = model.config
    # A model with adapters accepts any argument: the inner model's signature decides.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"  # transformers has no public name for it
        and "position_ids" in inspect.signature(base.forward).parameters
        and not hasattr(config, "router_aux_loss_coef")
    )


def attention_window(config: Any) -> int | None:
    """Return the model's attention window in tokens, None if unbounded: the mask of a packed row does not limit it."""
    window = getattr(config, "sliding_window", None)
    return window if isinstance(window, int) else None


def _begin_alike(row: Row) -> int:
    """Return the length of the common prefix of chosen and rejected, end tokens left out."""
    _, chosen, rejected = row
    limit = min(len(chosen), len(rejected)) - 1
    for n in range(limit):
        if chosen[n] != rejected[n]:
            return n
    return limit


def packed_length(row: Row) -> int:
    """Return the number of positions of a packed row."""
    return sum(map(len, row)) - 2 - _begin_alike(row)


def pack(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """Pack pairs.

    Returns:
        input_ids, position_ids and parts, (B, P); labels (R, T), chosen rows first; and positions (R, T), the index of
        the state that predicts each label, counted over (B, P) row by row.
    """
    width = max(map(packed_length, rows))
    longest = max(max(len(chosen), len(rejected)) for _, chosen, rejected in rows)
    input_ids, position_ids, parts = [], [], []
    labels = [[IGNORE] * longest for _ in range(2 * len(rows))]
    positions = [[0] * longest for _ in labels]
    for number, row in enumerate(rows):
        prompt, chosen, rejected = row
        start, shared = len(prompt), _begin_alike(row)
        # End of chosen, and length of the rest of rejected, both without end tokens.
        end, left = start + len(chosen) - 1, len(rejected) - 1 - shared
        padding = width - end - left
        input_ids.append([*prompt, *chosen[:-1], *rejected[shared:-1], *[pad] * padding])
        position_ids.append([*range(end), *range(start + shared, start + shared + left), *[0] * padding])
        own_parts = [CHOSEN] * (len(chosen) - 1 - shared) + [REJECTED] * left
        parts.append([COMMON] * (start + shared) + own_parts + [PADDING] * padding)
        predicting = {
            number: (chosen, range(start - 1, end)),
            # Shared tokens are predicted at chosen's positions, the rest after chosen.
            number + len(rows): (rejected, [*range(start - 1, start + shared), *range(end, end + left)]),
        }
        for target_row, (target, columns) in predicting.items():
            labels[target_row][: len(target)] = target
            positions[target_row][: len(target)] = [number * width + column for column in columns]
    batch = {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "parts": parts,
        "labels": labels,
        "positions": positions,
    }
    return {name: torch.tensor(values) for name, values in batch.items()}


def packed_mask(parts: Tensor) -> Tensor:
    """Return which positions attend to which, (B, 1, P, P): to earlier ones in the same part or the common part."""
    width = parts.shape[1]
    is_earlier = torch.ones(width, width, dtype=torch.bool, device=parts.device).tril()
    is_common = (parts == COMMON)[:, None, :]
    is_own = parts[:, None, :] == parts[:, :, None]
    return (is_earlier & (is_common | is_own))[:, None]
