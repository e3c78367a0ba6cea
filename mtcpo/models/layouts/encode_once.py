"""What an encoder-decoder model does once where its own forward pass would do it twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def encode_once(encoder: nn.Module, sources: int, copies: int) -> Iterator[None]:
    """Let the next forward pass encode only the first `sources` rows and give the decoder `copies` of the result.

    The model is called with every row repeated, so the masks that its decoder derives fit. Exact, dropout included:
    both targets of a pair see the same encoding.
    """

    def keep_sources(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        def cut(value: Any) -> Any:
            return value[:sources] if isinstance(value, Tensor) else value

        return tuple(cut(value) for value in args), {key: cut(value) for key, value in kwargs.items()}

    def repeat(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.repeat(copies, 1, 1)
        return output

    handles = [
        encoder.register_forward_pre_hook(keep_sources, with_kwargs=True),
        encoder.register_forward_hook(repeat, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def look_up_once(encoder: nn.Module, decoder: nn.Module, targets: Tensor) -> Iterator[None]:
    """Let the next forward pass look source and target tokens up together, where both have one table.

    The gradient of a lookup is as large as the table: here there is one, instead of two and their sum. `targets` are
    the ids (R, T) that the decoder is given.
    """
    tables = [getattr(part, "embed_tokens", None) for part in (encoder, decoder)]
    if not _are_one(*tables):
        yield
        return
    rest: list[Tensor] = []

    def join(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # The decoder's call comes second, and finds what was looked up for it.
        return (args[0][:, :0],) if rest else (torch.cat([args[0].flatten(), targets.flatten()]),)

    shapes: list[torch.Size] = []

    def keep_shape(module: nn.Module, args: tuple[Any, ...]) -> None:
        shapes.append(args[0].shape)

    def part(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if rest:
            return rest.pop()
        sources = output[: -targets.numel()].view(*shapes[0], -1)
        rest.append(output[-targets.numel() :].view(*targets.shape, -1))
        return sources

    handles = []
    for table in {id(table): table for table in tables}.values():
        assert table is not None
        handles += [table.register_forward_pre_hook(keep_shape), table.register_forward_pre_hook(join)]
        handles.append(table.register_forward_hook(part))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _are_one(one: Any, other: Any) -> bool:
    """Tell whether two modules look up the same: one of them, or two alike over one weight."""
    if one is other:
        return isinstance(one, nn.Embedding)
    scales = [getattr(module, "embed_scale", None) for module in (one, other)]
    alike = isinstance(one, nn.Embedding) and type(one) is type(other) and scales[0] == scales[1]
    return alike and one.weight is other.weight
