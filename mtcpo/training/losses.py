"""Preference losses: pure functions of log-probabilities.

Dimensions: B pairs. Notation: w chosen, l rejected, logp summed over target tokens (nats), m its mean over them.
A loss rewards either logp or m (LENGTH_NORMALIZED); r is that reward, by `alpha` bent or not, and h = r_w - r_l.
Each loss returns one value for each pair, shape (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from mtcpo.core.errors import UserError
from mtcpo.training.config import LossConfig

LENGTH_NORMALIZED = frozenset({"ipo", "simpo", "alphapo"})
"""Losses whose rewards are means over tokens, not sums."""


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probabilities of B pairs (float32, nats) and the target lengths in tokens; each of shape (B,)."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Return m_w and m_l."""
        return self.chosen / self.chosen_tokens, self.rejected / self.rejected_tokens

    def of(self, config: LossConfig) -> tuple[Tensor, Tensor]:
        """Return what the loss looks at, of chosen and rejected: m where it is length-normalized, else logp."""
        return self.means if config.loss in LENGTH_NORMALIZED else (self.chosen, self.rejected)


def shaped(logps: Tensor, alpha: float) -> Tensor:
    """(1 - e^(-alpha x)) / alpha, which is (1 - p^-alpha) / alpha for p = e^x; x for alpha = 0.

    The reward of AlphaPO (arXiv 2501.03884). Of a log-probability, since p itself is 0 in float32 below e^-103. With
    alpha > 0 it falls exponentially where x falls: alpha * |x| above 88 overflows whichever way it is computed, so on
    summed log-probabilities (sigmoid, hinge, arpo) alpha is to be small.
    """
    return logps if alpha == 0 else -torch.expm1(-alpha * logps) / alpha


def raw_rewards(logps: PairLogps, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Return r of chosen and rejected, shape (B,) each: the rewards before beta."""
    chosen, rejected = logps.of(config)
    return shaped(chosen, config.alpha), shaped(rejected, config.alpha)


def _margin(logps: PairLogps, config: LossConfig) -> Tensor:
    chosen, rejected = raw_rewards(logps, config)
    return chosen - rejected


def smoothed_sigmoid(logits: Tensor, label_smoothing: float) -> Tensor:
    """-(1 - eps) log sigma(x) - eps log sigma(-x)."""
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def sigmoid_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """-log sigma(beta h), smoothed; CPO eq. 3 (arXiv 2401.08417)."""
    return smoothed_sigmoid(config.beta * _margin(logps, config), config.label_smoothing)


def hinge_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """max(0, 1 - beta h); SLiC (arXiv 2305.10425)."""
    return relu(1 - config.beta * _margin(logps, config))


def ipo_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """(h - 1 / (2 beta))^2 on mean log-probabilities; IPO eq. 17 (arXiv 2310.12036)."""
    return (_margin(logps, config) - 1 / (2 * config.beta)) ** 2


def simpo_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """-log sigma(beta h - gamma) on mean log-probabilities, smoothed; SimPO eq. 6 (arXiv 2405.14734).

    With alpha, which "alphapo" has unless told otherwise, it is AlphaPO (arXiv 2501.03884): h of bent rewards.
    """
    return smoothed_sigmoid(config.beta * _margin(logps, config) - config.simpo_gamma, config.label_smoothing)


def rejection_rate(logps: PairLogps, config: LossConfig) -> Tensor:
    """Return tau = clamp(eta e^(kappa |m_w - m_l|) - 1, 0, 1), shape (B,), without gradient; X-ALMA (2410.03115).

    How hard to push the rejected down: not at all where the model finds it as good as the chosen, fully from a gap of
    ln(2 / eta) / kappa on. eta = 1 is the paper's formula, with kappa its eta.
    """
    chosen, rejected = (mean.detach() for mean in logps.means)
    return (config.arpo_eta * torch.exp(config.arpo_kappa * (chosen - rejected).abs()) - 1).clamp(0, 1)


def arpo_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """-log sigma(beta (r_w - tau r_l)), smoothed, tau by `rejection_rate`; ARPO of X-ALMA (arXiv 2410.03115)."""
    chosen, rejected = raw_rewards(logps, config)
    margin = chosen - rejection_rate(logps, config) * rejected
    return smoothed_sigmoid(config.beta * margin, config.label_smoothing)


PREFERENCE_LOSSES: dict[str, Callable[[PairLogps, LossConfig], Tensor]] = {
    "sigmoid": sigmoid_loss,
    "hinge": hinge_loss,
    "ipo": ipo_loss,
    "simpo": simpo_loss,
    "alphapo": simpo_loss,
    "arpo": arpo_loss,
}


def rewards(logps: PairLogps, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Return beta * r of chosen and rejected, detached, shape (B,) each: the implicit rewards."""
    chosen, rejected = raw_rewards(logps, config)
    return config.beta * chosen.detach(), config.beta * rejected.detach()


def router_weight(model_config: Any, config: LossConfig) -> float | None:
    """Return the weight of the router loss of a mixture of experts, 0 where it is off; None for other models.

    Raises:
        UserError: it is asked for, and the model has no experts, or no weight for it.
    """
    if not (hasattr(model_config, "output_router_logits") and hasattr(model_config, "router_aux_loss_coef")):
        if config.output_router_logits or config.router_aux_loss_coef:
            raise UserError(
                f"train: {model_config.model_type} has no experts whose load could be balanced; leave out "
                "output_router_logits and router_aux_loss_coef"
            )
        return None
    switch, weight = config.output_router_logits, config.router_aux_loss_coef
    if switch is None:
        switch = weight is not None or model_config.output_router_logits
    if weight is None:
        weight = model_config.router_aux_loss_coef
    if switch and weight is None:
        raise UserError("train.output_router_logits: the model has no weight for it; set train.router_aux_loss_coef")
    return float(weight) if switch and weight else 0.0


PAIR_METRICS = (
    "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
)  # fmt: skip
