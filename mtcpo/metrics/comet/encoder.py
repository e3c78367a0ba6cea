"""The forward pass of COMET's encoders, reduced to what a score depends on.

One pass serves BERT, MiniLM, XLM-R and RemBERT, which normalize after each sublayer, and XLM-R-XL, which normalizes
before it: their modules have the same names. Modules and weights are those of transformers, but its forward pass is
replaced, because it

- keeps the states of all layers until the end, while here each is pooled and added to the mix at once;
- computes every position of the last layer, while models that read the first token need only one (P of S below);
- changes its arguments and return types from one release to the next.

`is_known` compares both passes whenever a model is loaded.

Dimensions: B sequences, S tokens of the longest, P positions needed from the last layer, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from mtcpo.metrics.comet.packed import PackedLinear

TOLERANCE = 1e-3
"""Relative to a layer's largest state: far above float32 rounding, far below the effect of wrong attention."""


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
        model: A transformers encoder; its linear layers may be in half precision.
        ids: Token ids. Shape (B, S).
        mask: True at tokens, shape (B, S); None: no sequence is padded.
        token_types: Ids of token types, shape (B, S), for encoders that have them.
        depth: How many layers to compute.
        prefix: How many positions of the last layer to compute; None: all.
        keep: Mask of those positions to compute, shape (B, P); the others are 0. None: all.

    Yields:
        Shape (B, S, D), the last (B, P, D).
    """
    hidden = model.embeddings(input_ids=ids, token_type_ids=token_types)
    if hasattr(model.encoder, "embedding_hidden_mapping_in"):  # RemBERT's embeddings are narrower than its layers
        hidden = _dense(model.encoder.embedding_hidden_mapping_in, hidden)
    hidden = hidden.float()
    bias = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, S), for every head and query
    total = len(model.encoder.layer)
    # XLM-R-XL returns states before the norm that begins the next layer; only the last state is normalized.
    final_norm = getattr(model.encoder, "LayerNorm", None)
    for number, layer in enumerate(model.encoder.layer[:depth], start=1):
        yield hidden
        is_last = number == depth
        hidden = _layer(layer, hidden, bias, prefix if is_last else None, keep if is_last else None)
        if final_norm is not None and number == total:
            hidden = final_norm(hidden)
    yield hidden if depth or prefix is None else hidden[:, :prefix]


def _layer(layer: Any, hidden: Tensor, bias: Tensor | None, prefix: int | None, keep: Tensor | None) -> Tensor:
    """Return the states after a layer at the first `prefix` positions. Shape (B, S, D) -> (B, P, D)."""
    attention = layer.attention
    norm_first = hasattr(attention, "self_attn_layer_norm")
    inputs = attention.self_attn_layer_norm(hidden) if norm_first else hidden
    context = _attention(attention.self, inputs, bias, prefix)
    hidden = hidden[:, :prefix]
    if keep is None:
        return _after_attention(layer, hidden, context, norm_first)
    # The feed-forward part, two thirds of a layer's work, runs on the kept positions alone.
    result = torch.zeros_like(hidden)
    result[keep] = _after_attention(layer, hidden[keep], context[keep], norm_first)
    return result


def _after_attention(layer: Any, hidden: Tensor, context: Tensor, norm_first: bool) -> Tensor:
    """Return the states after a layer from those before it and the attention's context. Shape (..., D)."""
    output = layer.attention.output
    if norm_first:
        hidden = hidden + _dense(output.dense, context)
        return hidden + _feed_forward(layer, layer.LayerNorm(hidden))
    hidden = output.LayerNorm(hidden + _dense(output.dense, context))
    normalized: Tensor = layer.output.LayerNorm(hidden + _feed_forward(layer, hidden))
    return normalized


def _attention(attention: Any, inputs: Tensor, bias: Tensor | None, prefix: int | None) -> Tensor:
    """Return the context of the first `prefix` positions, attending to all. Shape (B, S, D) -> (B, P, D)."""
    inputs = _cast(attention.query, inputs)  # once, for query, key and value

    def heads(module: Any, at: Tensor) -> Tensor:
        projected = _product(module, at)
        return projected.view(*projected.shape[:2], attention.num_attention_heads, -1).transpose(1, 2)

    context = scaled_dot_product_attention(
        heads(attention.query, inputs[:, :prefix]), heads(attention.key, inputs), heads(attention.value, inputs), bias
    )
    return context.transpose(1, 2).flatten(2)


def _feed_forward(layer: Any, inputs: Tensor) -> Tensor:
    intermediate = layer.intermediate
    inner = _product(intermediate.dense, inputs)
    if not getattr(intermediate.dense, "with_gelu", False):  # a packed layer has applied it already
        inner = intermediate.intermediate_act_fn(inner)
    return _dense(layer.output.dense, inner)


def _dense(module: Any, inputs: Tensor) -> Tensor:
    """Apply a linear layer in its own precision; residuals are added in float32."""
    return _product(module, inputs).float()


def _product(module: Any, inputs: Tensor) -> Tensor:
    if isinstance(module, PackedLinear):
        packed: Tensor = module(inputs)
        return packed
    return linear(_cast(module, inputs), module.weight, module.bias)


def _cast(module: Any, inputs: Tensor) -> Tensor:
    return inputs if isinstance(module, PackedLinear) else inputs.to(module.weight.dtype)


def is_known(model: Any, ids: Tensor) -> bool:
    """Whether `states` agrees with the model's own forward pass on some token ids (B, S)."""
    expected = model(input_ids=ids, output_hidden_states=True, return_dict=True).hidden_states
    computed = states(model, ids, None, None, len(expected) - 1, None)
    for ours, theirs in zip(computed, expected, strict=True):
        # `not <=` rather than `>`, so that NaN fails too.
        if not (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max():
            return False
    return True


def reduce_precision(model: Any, dtype: torch.dtype) -> None:
    """Convert the linear layers, which take the time, to `dtype`; embeddings, norms and sums stay in float32."""
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            module.to(dtype)
