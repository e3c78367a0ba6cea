"""Log-probabilities of target tokens from a model's own forward pass, with forward hooks on its output head.

Inside `Head.scoring`, a forward pass runs as follows. Dimensions: decoder states (R, P, D), vocabulary V.

    decoder                       states (R, P, D), scaled if the model scales them (tied T5)
      |
    forward pre-hook of the head  keeps the states, passes on states[:, :0], no position at all
      |
    head                          multiplies nothing; FSDP and DeepSpeed gather its weight around this call
      |
    forward hook of the head      scores the labels from the kept states while the weight is there, and adds the
      |                           loss to the empty logits (R, 0, V)
    rest of the model             soft cap, bias, scale: applied to no element
      |
    output.logits (R, 0, V)       empty, but connected to the loss by autograd

So the model never builds its logits, and no code here has to know how a family computes its states. What a model does
to its logits after the head is in `LogitTransform`; if that is not enough, `LogitsMode` falls back to its own logits.

Why the loss is added to the empty logits: DDP, FSDP and DeepSpeed put their backward hooks on the outputs of the
modules that they wrap. If these are not part of the graph, weights are not gathered for the backward pass, or gradients
do not reach the optimizer. `add_model_losses` recovers the loss from the model's output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mtcpo.models.head.fused import score_tokens
from mtcpo.models.head.targets import IGNORE, LogitTransform, Objective, TargetPositions, TokenScores

LogitsMode = Literal["none", "real", "all"]
"""For which positions the model computes its own logits.

none: for no position. `score_tokens` scores the head's input states in chunks: fastest, with the least memory; correct
if the head is a linear layer followed by a `LogitTransform`.

real: for the positions that predict a label. The pre-hook passes only those to the head, and a forward hook on the
model reads its logits, all in memory at once; correct if the model treats each position independently.

all: for every position. The head gets all states, as without hooks; correct for every model, and the most expensive.
"""


@dataclass(slots=True)
class Head:
    """The output head of a model, and how to compute log-probabilities with it.

    module: the head, a linear layer.
    extra_bias: a bias (1, V) that the model adds outside the module, such as Marian's `final_logits_bias`.
    transform: what the model does to the logits after the bias.
    with_means: also compute the mean of the log-probabilities over the vocabulary, for label smoothing.
    model: the whole model; needed by the modes "real" and "all".
    logits_mode: the first mode that agrees with the model, as checked by the canary.
    """

    module: nn.Module
    extra_bias: Tensor | None = None
    transform: LogitTransform = field(default_factory=LogitTransform)
    with_means: bool = False
    model: nn.Module | None = None
    logits_mode: LogitsMode = "none"

    @contextmanager
    def scoring(
        self, labels: Tensor, target_positions: TargetPositions, objective: Objective | None = None
    ) -> Iterator[list[TokenScores]]:
        """Score the labels during the next forward pass; afterwards, the yielded list holds the scores.

        Args:
            labels: (R, T), the first targets of all sources come first.
            target_positions: which states predict them.
            objective: the loss, if one is needed.
        """
        kept_states: list[Tensor] = []
        result: list[TokenScores] = []

        def keep_states(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            kept_states.append(args[0].flatten(0, 1))
            return (args[0][:, :0],)

        def score_states(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            scores = self._score_states(kept_states.pop(), labels, target_positions, objective)
            result.append(scores)
            return output if scores.loss is None else output.detach() + scores.loss

        def select_states(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0].flatten(0, 1)[target_positions.positions][None],)

        def score_logits(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            logits = output.logits.flatten(0, 1)
            if self.logits_mode == "all":
                logits = logits[target_positions.positions]
            scores = _score_logits(logits, labels, target_positions)
            result.append(scores if objective is None else replace(scores, loss=objective(scores)))

        handles = []
        if self.logits_mode == "none":
            handles.append(self.module.register_forward_pre_hook(keep_states))
            # Before all other hooks: those of FSDP and DeepSpeed free the gathered weight.
            handles.append(self.module.register_forward_hook(score_states, prepend=True))
        else:
            assert self.model is not None
            if self.logits_mode == "real":
                handles.append(self.module.register_forward_pre_hook(select_states))
            handles.append(self.model.register_forward_hook(score_logits))
        try:
            yield result
        finally:
            for handle in handles:
                handle.remove()

    def _score_states(
        self, states: Tensor, labels: Tensor, target_positions: TargetPositions, objective: Objective | None
    ) -> TokenScores:
        """Score labels (R, T) from the states (R * P, D) of all positions, while the module's weight is gathered."""
        weight, bias = cast(Tensor, self.module.weight), cast("Tensor | None", getattr(self.module, "bias", None))
        if self.extra_bias is not None:
            bias = self.extra_bias.flatten() + (0.0 if bias is None else bias)
        return score_tokens(states, weight, bias, labels, target_positions, self.transform, objective, self.with_means)


def _score_logits(logits: Tensor, labels: Tensor, target_positions: TargetPositions) -> TokenScores:
    """Score labels (R, T) from the logits (U, V) of the needed positions, in their order."""
    logps = torch.log_softmax(logits.float(), -1)
    has_label = labels != IGNORE
    slots = target_positions.slot_of_token.where(has_label, 0)
    token_logps = logps[slots, labels.where(has_label, 0)].where(has_label, 0.0)
    mean_logps = logps.mean(-1)[slots].where(has_label, 0.0)
    return TokenScores(token_logps, mean_logps, labels)


def add_model_losses(scores: TokenScores, output: Any) -> TokenScores:
    """Return the scores with the router loss of the model's output, and their loss connected to that output.

    The sum of empty logits is 0; its gradient runs through the backward hooks of whatever wraps the model.
    """
    if scores.loss is not None and not output.logits.numel():
        scores = replace(scores, loss=scores.loss + output.logits.sum())
    return replace(scores, router_loss=getattr(output, "aux_loss", None))
