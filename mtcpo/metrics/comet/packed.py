"""Linear layers in float32 on a CPU: weights laid out once as oneDNN's products want them, GELU in the same pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

ROWS = 2048
"""Tokens of a batch, about, for which the layout is chosen; it is right for any number."""


class PackedLinear(nn.Module):
    """The product of a linear layer, and GELU after it if `gelu`; the layer itself may go.

    Faster than torch's own, which lays out the weight in every call (eval/results/bench/comet.md).
    """

    def __init__(self, layer: nn.Linear, gelu: bool) -> None:
        super().__init__()
        self.gelu = gelu
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        self._bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (..., inputs) -> (..., outputs)."""
        then, which = ("gelu", "none") if self.gelu else ("none", "")
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, then, [], which)
        return product


def pack(model: Any) -> None:
    """Put packed layers in place of an encoder's linear ones, where this build of torch has them.

    The encoder is then for `states` alone: it would apply GELU once more.
    """
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):  # type: ignore[no-untyped-call]
        return
    for layer in model.encoder.layer:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, PackedLinear(child, parent is layer.intermediate and _is_gelu(parent)))


def _is_gelu(intermediate: Any) -> bool:
    probe = torch.linspace(-4, 4, 64)
    return bool(torch.allclose(intermediate.intermediate_act_fn(probe), gelu(probe), atol=1e-7))
