"""The forward pass of COMET's encoders, computing only what a score depends on.

One pass serves BERT, MiniLM, XLM-R and RemBERT, which normalise after each sublayer, and XLM-R-XL, which does before:
their modules have the same names. The modules and their weights are the library's; the pass is ours, because theirs

- keeps the states of all layers until the end; here each is pooled and added to the mix as it is made;
- computes every position of the last layer, where the models that read the first token need one (P of S below);
- takes what differs from one release of transformers to the next: arguments, tuples, dictionaries.

Dimensions: B sequences, S tokens of the longest, P positions that are needed of the last layer, D hidden, H heads,
L layers and the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from mtcpo.metrics.comet.packed import PackedLinear

TOLERANCE = 1e-3
"""Of the largest state of a layer: far above float32's rounding, far below what another kind of attention changes."""


def states(
    model: Any,
    ids: Tensor,
    mask: Tensor | None,
    token_types: Tensor | None,
    depth: int,
    prefix: int | None,
    keep: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the embeddings and the states after each of the first `depth` layers, in float32.

    Args:
        model: The encoder of transformers; its linear layers may be of less precision than float32.
        ids: Token ids. Shape (B, S).
        mask: True at tokens; None: no sequence is padded. Shape (B, S).
        token_types: Ids of token types, for encoders that tell segments apart. Shape (B, S).
        depth: How many layers to compute.
        prefix: How many positions of the last of them to compute; None: all.
        keep: Which of those; the others are 0 there. None: all. Shape (B, P).

    Yields:
        Shape (B, S, D), the last (B, P, D).
    """
    hidden = model.embeddings(input_ids=ids, token_type_ids=token_types)
    if hasattr(model.encoder, "embedding_hidden_mapping_in"):  # RemBERT: its embeddings are narrower
        hidden = _dense(model.encoder.embedding_hidden_mapping_in, hidden)
    hidden = hidden.float()
    bias = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, S), for every head and query
    total = len(model.encoder.layer)
    # XLM-R-XL's states are those before the norm that the next layer begins with; the very last one is after it.
    final_norm = getattr(model.encoder, "LayerNorm", None)
    for number, layer in enumerate(model.encoder.layer[:depth], start=1):
        yield hidden
        is_last = number == depth
        hidden = _layer(layer, hidden, bias, prefix if is_last else None, keep if is_last else None)
        if final_norm is not None and number == total:
            hidden = final_norm(hidden)
    yield hidden if depth or prefix is None else hidden[:, :prefix]


def _layer(layer: Any, hidden: Tensor, bias: Tensor | None, prefix: int | None, keep: Tensor | None) -> Tensor:
    """Return the states after a layer, of the first `prefix` positions. Shape (B, S, D) -> (B, P, D)."""
    attention = layer.attention
    norm_first = hasattr(attention, "self_attn_layer_norm")
    inputs = attention.self_attn_layer_norm(hidden) if norm_first else hidden
    context = _attention(attention.self, inputs, bias, prefix)
    hidden = hidden[:, :prefix]
    if keep is None:
        return _after_attention(layer, hidden, context, norm_first)
    result = torch.zeros_like(hidden)
    result[keep] = _after_attention(layer, hidden[keep], context[keep], norm_first)
    return result


def _after_attention(layer: Any, hidden: Tensor, context: Tensor, norm_first: bool) -> Tensor:
    """Return the states after a layer, from those before it and what they gathered. Shape (..., D)."""
    output = layer.attention.output
    if norm_first:
        hidden = hidden + _dense(output.dense, context)
        return hidden + _feed_forward(layer, layer.LayerNorm(hidden))
    hidden = output.LayerNorm(hidden + _dense(output.dense, context))
    normalised: Tensor = layer.output.LayerNorm(hidden + _feed_forward(layer, hidden))
    return normalised


def _attention(attention: Any, inputs: Tensor, bias: Tensor | None, prefix: int | None) -> Tensor:
    """Return what the first `prefix` positions gather from all. Shape (B, S, D) -> (B, P, D)."""
    inputs = _cast(attention.query, inputs)

    def heads(module: Any, of: Tensor) -> Tensor:
        whole = _product(module, of)
        return whole.view(*whole.shape[:2], attention.num_attention_heads, -1).transpose(1, 2)

    context = scaled_dot_product_attention(
        heads(attention.query, inputs[:, :prefix]), heads(attention.key, inputs), heads(attention.value, inputs), bias
    )
    return context.transpose(1, 2).flatten(2)


def _feed_forward(layer: Any, inputs: Tensor) -> Tensor:
    wide = layer.intermediate
    inner = _product(wide.dense, inputs)
    if not getattr(wide.dense, "with_gelu", False):
        inner = wide.intermediate_act_fn(inner)
    return _dense(layer.output.dense, inner)


def _dense(module: Any, inputs: Tensor) -> Tensor:
    """Apply a linear layer in its own precision; float32 is what is added up."""
    return _product(module, inputs).float()


def _product(module: Any, inputs: Tensor) -> Tensor:
    if isinstance(module, PackedLinear):
        packed: Tensor = module(inputs)
        return packed
    return linear(_cast(module, inputs), module.weight, module.bias)


def _cast(module: Any, inputs: Tensor) -> Tensor:
    return inputs if isinstance(module, PackedLinear) else inputs.to(module.weight.dtype)


def is_known(model: Any, ids: Tensor) -> bool:
    """Whether the states of some tokens (B, S) are those that the model itself computes."""
    own = model(input_ids=ids, output_hidden_states=True, return_dict=True).hidden_states
    ours = states(model, ids, None, None, len(own) - 1, None)
    return all(bool((a - b).abs().max() <= TOLERANCE * b.abs().max()) for a, b in zip(ours, own, strict=True))


def reduce_precision(model: Any, dtype: torch.dtype) -> None:
    """Put the linear layers, where the time goes, into `dtype`; embeddings, norms and sums stay in float32."""
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            module.to(dtype)
