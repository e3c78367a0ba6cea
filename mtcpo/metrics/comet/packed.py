"""Linear layers in float32 on a CPU: weights laid out once as oneDNN wants them, GELU in the same pass.

torch's public `linear` lays out the weight in every call (eval/results/bench/comet.md has what that costs). The two
operations used here are private: PyTorch may rename or change them in any release. So `pack` first compares a product
of each kind with the public one, and leaves the model as it is where they are missing, raise or disagree.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

ROWS = 2048
"""Tokens of a batch, about, for which the layout is chosen; it is right for any number of them."""

SAMPLE_ROWS = 16
TOLERANCE = 1e-4
"""Of the largest value of a product: float32 sums in another order differ by 1e-6, another operation by 1e-2."""


class PackedLinear(nn.Module):
    """The product of a linear layer, and GELU after it if `with_gelu`. It keeps no reference to the layer's weight."""

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
    """Put packed layers in place of an encoder's linear ones, if this build of torch has them and they are exact.

    The encoder is then for `states` alone: its own forward would apply GELU a second time.
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
    """Whether a layer's packed product is its plain one; False where this torch cannot compute the packed one."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    inputs = torch.linspace(-2, 2, SAMPLE_ROWS * layer.in_features).view(SAMPLE_ROWS, -1)
    with torch.inference_mode():
        expected = linear(inputs, layer.weight, layer.bias)
        if with_gelu:
            expected = gelu(expected)
        try:
            product = PackedLinear(layer, with_gelu)(inputs)
        except Exception:  # a private operation: it may be gone, take other arguments, or refuse this processor
            return False
    if product.shape != expected.shape:
        return False
    return bool((product - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _is_gelu(intermediate: Any) -> bool:
    sample = torch.linspace(-4, 4, 64)
    return bool(torch.allclose(intermediate.intermediate_act_fn(sample), gelu(sample), atol=1e-7))
