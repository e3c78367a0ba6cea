"""Preference losses: pure functions of log-probabilities.

Dimensions: B pairs. Notation: w chosen, l rejected, logp summed over target tokens (nats), m its mean over them,
h = logp_w - logp_l. Each function returns one value for each pair, shape (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from mtcpo.trainconfig import LossConfig


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probabilities of B pairs (float32, nats) and the target lengths in tokens; each of shape (B,)."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def margin(self) -> Tensor:
        """Return h = logp_w - logp_l."""
        return self.chosen - self.rejected

    @property
    def mean_margin(self) -> Tensor:
        """Return m_w - m_l."""
        return self.chosen / self.chosen_tokens - self.rejected / self.rejected_tokens


def smoothed_sigmoid(logits: Tensor, label_smoothing: float) -> Tensor:
    """-(1 - eps) log sigma(x) - eps log sigma(-x)."""
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def sigmoid_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """-log sigma(beta h), smoothed; CPO eq. 3 (arXiv 2401.08417)."""
    return smoothed_sigmoid(config.beta * logps.margin, config.label_smoothing)


def hinge_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """max(0, 1 - beta h); SLiC (arXiv 2305.10425)."""
    return relu(1 - config.beta * logps.margin)


def ipo_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """(h - 1 / (2 beta))^2 on mean log-probabilities; IPO eq. 17 (arXiv 2310.12036)."""
    return (logps.mean_margin - 1 / (2 * config.beta)) ** 2


def simpo_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """-log sigma(beta h - gamma) on mean log-probabilities, smoothed; SimPO eq. 6 (arXiv 2405.14734)."""
    return smoothed_sigmoid(config.beta * logps.mean_margin - config.simpo_gamma, config.label_smoothing)


PREFERENCE_LOSSES: dict[str, Callable[[PairLogps, LossConfig], Tensor]] = {
    "sigmoid": sigmoid_loss,
    "hinge": hinge_loss,
    "ipo": ipo_loss,
    "simpo": simpo_loss,
}

LENGTH_NORMALIZED = frozenset({"ipo", "simpo"})
"""Losses whose rewards are means over tokens, not sums."""


def rewards(logps: PairLogps, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Return beta * logp (or its mean) of chosen and rejected, detached, shape (B,) each: the implicit rewards."""
    if config.loss in LENGTH_NORMALIZED:
        chosen, rejected = logps.chosen / logps.chosen_tokens, logps.rejected / logps.rejected_tokens
    else:
        chosen, rejected = logps.chosen, logps.rejected
    return config.beta * chosen.detach(), config.beta * rejected.detach()
