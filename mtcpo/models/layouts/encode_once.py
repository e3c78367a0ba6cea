"""Save double work in an encoder-decoder's forward pass: encode each source once, look up embeddings once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def encode_once(encoder: nn.Module, sources: int, copies: int) -> Iterator[None]:
    """Make the next forward pass encode only the first `sources` rows, and repeat the result `copies` times.

    The model is called with every row repeated, so that masks derived in the decoder have the right shape. The result
    is exact; with dropout, both targets of a pair see the same encoding.
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


@contextmanager
def look_up_once(encoder: nn.Module, decoder: nn.Module, targets: Tensor) -> Iterator[None]:
    """Make the next forward pass look up source and target tokens in one call, if encoder and decoder share embeddings.

    The gradient of a lookup is as large as the embeddings: this way there is one instead of two and their sum, which
    saves about a fifth of a step of mT5-small on a CPU (eval/results/bench/look-up-once.json).

    targets: decoder input ids (R, T). Correct because a forward pass looks up first sources, then targets, and nothing
    else.
    """
    embeddings = [getattr(part, "embed_tokens", None) for part in (encoder, decoder)]
    if not _is_shared(*embeddings):
        yield
        return
    source_shapes: list[torch.Size] = []
    target_states: list[Tensor] = []

    def add_targets(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if target_states:  # the decoder's call: its tokens have been looked up already
            return (args[0][:, :0],)
        source_shapes.append(args[0].shape)
        return (torch.cat([args[0].flatten(), targets.flatten()]),)

    def take_part(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if target_states:
            return target_states.pop()
        target_states.append(output[-targets.numel() :].view(*targets.shape, -1))
        return output[: -targets.numel()].view(*source_shapes[0], -1)

    handles = []
    # By identity: encoder and decoder may share a module, or have two modules with the same weight.
    for module in {id(module): module for module in embeddings}.values():
        assert module is not None
        handles.append(module.register_forward_pre_hook(add_targets))
        handles.append(module.register_forward_hook(take_part))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_shared(encoder_embeddings: Any, decoder_embeddings: Any) -> bool:
    """Whether two embedding modules are equivalent: the same module, or equal ones that share a weight."""
    if encoder_embeddings is decoder_embeddings:
        return isinstance(encoder_embeddings, nn.Embedding)
    if not isinstance(encoder_embeddings, nn.Embedding) or type(encoder_embeddings) is not type(decoder_embeddings):
        return False
    # M2M100's embeddings scale what they look up.
    scales = [getattr(module, "embed_scale", None) for module in (encoder_embeddings, decoder_embeddings)]
    return scales[0] == scales[1] and encoder_embeddings.weight is decoder_embeddings.weight
