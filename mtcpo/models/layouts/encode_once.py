"""Encoding each source once, although the decoder needs it for each of its targets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def encode_once(encoder: nn.Module, sources: int, copies: int) -> Iterator[None]:
    """Let the next forward pass encode only the first `sources` rows and give the decoder `copies` of the result.

    The model is called with every row repeated, so that the masks which its decoder derives have the right shape. The
    result is exact; with dropout both targets of a pair see the same encoding.
    """

    def keep_sources(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        def first_rows(value: Any) -> Any:
            return value[:sources] if isinstance(value, Tensor) else value

        return tuple(map(first_rows, args)), {name: first_rows(value) for name, value in kwargs.items()}

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
