"""What the head is told and what it answers: labels, transforms of logits, losses, and scored targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

IGNORE = -100
"""The label of a position that does not count."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Targets of a forward pass, or some of them: all (R, T), chosen rows first; 0 where there is no label.

    mean_logps: mean over the vocabulary of log-probabilities; zeros unless the head was asked for them. router_loss: of
    a mixture of experts. loss: of the whole, where one was asked for; it alone has gradients.
    """

    token_logps: Tensor
    mean_logps: Tensor
    labels: Tensor
    router_loss: Tensor | None = None
    loss: Tensor | None = None


Objective = Callable[[Scored], Tensor]
"""A loss that is a sum over sources, of any of which it can be given the targets: -> scalar."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its head's product: logits = softcap * tanh(scale * z / softcap), or scale * z."""

    scale: float = 1.0
    softcap: float | None = None

    def apply_(self, logits: Tensor) -> Tensor | None:
        """Apply to float32 logits (C, V) in place; return the derivative (C, V) where it is no constant."""
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is None:
            return None
        logits.div_(self.softcap).tanh_()
        slope = 1 - logits**2
        logits.mul_(self.softcap)
        return slope
