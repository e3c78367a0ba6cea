"""Packed float32 linear layers for CPUs: weights in oneDNN's layout, reordered only once, and fused GELU.

torch's public `linear` reorders the weight in every call (eval/results/bench/comet.md has the cost). The two operations
used here are private: PyTorch may rename or change them in any release. So `pack` first compares a product of each kind
with the public one, and leaves the model unchanged if they are missing, raise an error or disagree.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

ROWS = 2048
"""Typical number of tokens in a batch, for which the layout is optimized; it is correct for any number."""

SAMPLE_ROWS = 16
TOLERANCE = 1e-4
"""Relative to a product's largest value: another order of float32 sums changes 1e-6, another operation 1e-2."""


class PackedLinear(nn.Module):
    """A linear layer, followed by GELU if `with_gelu`. It keeps no reference to the original weight."""

    def __init__(self, layer: nn.Linear, with_gelu: bool) -> None:
        super().__init__()
        self.with_gelu = with_gelu
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        self._bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (..., inputs) -> (..., outputs)."""
        activation, algorithm = ("gelu", "none") if self.with_gelu else ("none", "")  # "none": GELU without tanh
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._weight, self._bias, activation, [], algorithm
        )
        return product


def pack(model: Any) -> None:
    """Replace an encoder's linear layers by packed ones, if this build of torch supports them exactly.

    After that, the encoder works only with `states`: its own forward would apply GELU twice.
    """
    first = model.encoder.layer[0]
    if not (_is_exact(first.intermediate.dense, True) and _is_exact(first.output.dense, False)):
        return
    for layer in model.encoder.layer:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    with_gelu = parent is layer.intermediate and _is_gelu(parent)
                    setattr(parent, name, PackedLinear(child, with_gelu))


def _is_exact(layer: nn.Linear, with_gelu: bool) -> bool:
    """Whether a layer's packed product equals the plain one; False if this build of torch cannot compute it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    inputs = torch.linspace(-2, 2, SAMPLE_ROWS * layer.in_features).view(SAMPLE_ROWS, -1)
    with torch.inference_mode():
        expected = linear(inputs, layer.weight, layer.bias)
        if with_gelu:
            expected = gelu(expected)
        try:
            product = PackedLinear(layer, with_gelu)(inputs)
        except Exception:  # a private operation: it may be missing, take other arguments, or refuse this CPU
            return False
    if product.shape != expected.shape:
        return False
    return bool((product - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _is_gelu(intermediate: Any) -> bool:
    sample = torch.linspace(-4, 4, 64)
    return bool(torch.allclose(intermediate.intermediate_act_fn(sample), gelu(sample), atol=1e-7))
