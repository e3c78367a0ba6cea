"""Log-probabilities of target tokens out of a model's own forward pass, whose head is tapped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mtcpo.models.head.fused import score_tokens
from mtcpo.models.head.targets import IGNORE, LogitTransform, Objective, Places, Scored


@dataclass(slots=True)
class Head:
    """The output head of a model, tapped while the model runs its own forward pass.

    Inside `scoring` the head module gets no position to multiply, so the model builds no logits; what it was to
    multiply (tied scaling included) goes to `score_tokens` at once, while its weight is there: sharded weights are
    gathered around the call of their module. A model that alters its logits in a way unknown to us builds its own.

    The loss leaves the model by its output, as the gradient of a logits tensor (R, 0, V) with no element: what wraps a
    model or a module of it (DDP, FSDP, DeepSpeed) has its hooks there, and without them would not gather weights for
    the backward pass, or not hand gradients to the optimizer. `finished` takes it out.
    """

    module: nn.Module
    extra_bias: Tensor | None = None
    transform: LogitTransform = field(default_factory=LogitTransform)
    with_means: bool = False
    """Also give the mean over the vocabulary of the log-probabilities, for label smoothing."""
    model: nn.Module | None = None
    own_logits: Literal["none", "real", "all"] = "none"
    """Positions whose logits are the `model`'s own, all alive at once: those with a label, or every one."""

    @contextmanager
    def scoring(self, labels: Tensor, places: Places, objective: Objective | None = None) -> Iterator[list[Scored]]:
        """Tap the next forward pass; afterwards the list holds its outcome.

        Args:
            labels: (R, T), the first targets of all sources first.
            places: where the states that predict them are.
            objective: the loss, if there is to be one.
        """
        seen: list[Tensor] = []
        result: list[Scored] = []

        def part(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            if self.own_logits == "all":
                return args
            states = args[0].flatten(0, 1)
            if self.own_logits == "real":
                return (states[places.order][None],)
            seen.append(states)
            return (args[0][:, :0],)

        def score(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            result.append(self._of_states(seen.pop(), labels, places, objective))
            loss = result[0].loss
            return output if loss is None else output.detach() + loss

        def read(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            logits = output.logits.flatten(0, 1)
            needed = logits if self.own_logits == "real" else logits[places.order]
            scored = _of_logits(needed, labels, places)
            result.append(scored if objective is None else replace(scored, loss=objective(scored)))

        handles = [self.module.register_forward_pre_hook(part)]
        if self.own_logits == "none":
            # First of all hooks: those of FSDP and DeepSpeed would take the gathered weight away.
            handles.append(self.module.register_forward_hook(score, prepend=True))
        else:
            assert self.model is not None
            handles.append(self.model.register_forward_hook(read))
        try:
            yield result
        finally:
            for handle in handles:
                handle.remove()

    def _of_states(self, states: Tensor, labels: Tensor, places: Places, objective: Objective | None) -> Scored:
        """Score labels (R, T) by the states (P, D) of all positions, while the module's weight is there."""
        weight, bias = cast(Tensor, self.module.weight), cast("Tensor | None", getattr(self.module, "bias", None))
        if self.extra_bias is not None:
            bias = self.extra_bias.flatten() + (0.0 if bias is None else bias)
        return score_tokens(states, weight, bias, labels, places, self.transform, objective, self.with_means)


def _of_logits(logits: Tensor, labels: Tensor, places: Places) -> Scored:
    """Score labels (R, T) by the logits (U, V) of the positions that are needed, in their order."""
    logps = torch.log_softmax(logits.float(), -1)
    real = labels != IGNORE
    slots = places.slots.where(real, 0)
    values = logps[slots, labels.where(real, 0)], logps.mean(-1)[slots]
    of_labels, means = (value.where(real, 0.0) for value in values)
    return Scored(of_labels, means, labels)


def finished(scored: Scored, output: Any) -> Scored:
    """Return what the head answered with what the model's output adds: the way of the loss, and a router loss."""
    if scored.loss is not None and not output.logits.numel():
        scored = replace(scored, loss=scored.loss + output.logits.sum())
    return replace(scored, router_loss=getattr(output, "aux_loss", None))
