"""Running sums on the device, and the figures that logs and evaluations compute from them.

Dimensions: B pairs. Steps add to the sums without waiting; reading them synchronizes with the device, so it happens
only at logs, evaluations and saves.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mtcpo.core.errors import UserError
from mtcpo.models.head.targets import IGNORE, TokenScores
from mtcpo.models.layouts.base import Batch
from mtcpo.training.losses import LossConfig, LossSpec, PairLogps, chosen_nll, pair_logps, shaped
from mtcpo.training.sharding import local_part

COUNTS = ("pairs", "chosen_tokens", "real_tokens", "padded_tokens")
PAIR_METRICS = (
    "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
)  # fmt: skip
"""Figures about pairs, under the names that TRL uses in its logs."""

SUMS = (*COUNTS, "preference", "nll", "smoothed_nll", "router_loss", *PAIR_METRICS)


# --- what a batch adds ------------------------------------------------------------------------------------------------


def count_items(batch: Batch, sft: bool) -> Tensor:
    """Return (2,): pairs and chosen target tokens, a batch's contribution to the normalizers of its step."""
    labels = batch["labels"]
    chosen = labels if sft else labels[: len(labels) // 2]
    # Not torch.tensor, whose copy to a GPU would wait for the GPU.
    return torch.stack([torch.full((), len(chosen), device=labels.device), (chosen != IGNORE).sum()])


def rewards(logps: PairLogps, config: LossConfig, loss: LossSpec) -> tuple[Tensor, Tensor]:
    """Return the implicit rewards, beta * r, of chosen and rejected; detached, shape (B,) each."""
    chosen, rejected = _rewarded(logps, loss)
    return config.beta * shaped(chosen, config.alpha).detach(), config.beta * shaped(rejected, config.alpha).detach()


def _rewarded(logps: PairLogps, loss: LossSpec) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of chosen and rejected that the loss uses: means or sums."""
    if loss.length_normalized:
        return logps.chosen_mean, logps.rejected_mean
    return logps.chosen, logps.rejected


def batch_sums(
    scores: TokenScores, counts: Iterable[Tensor | int], config: LossConfig, loss: LossSpec
) -> dict[str, Tensor | int]:
    """Return name -> figure of a batch, summed over its pairs. counts: in the order of COUNTS."""
    sums = dict(zip(COUNTS, counts, strict=True))
    sums["smoothed_nll"] = chosen_nll(scores, config).detach()
    if scores.router_loss is not None:
        sums["router_loss"] = scores.router_loss.detach() * sums["real_tokens"]
    if loss.function is None:
        return sums | {"nll": -scores.token_logps.detach().sum()}
    logps = pair_logps(scores)
    chosen, rejected = rewards(logps, config, loss)
    chosen_logps, rejected_logps = _rewarded(logps, loss)
    pair_figures = {
        "preference": loss.function(logps, config),
        "nll": -logps.chosen,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/margins": chosen - rejected,
        "logps/chosen": chosen_logps,
        "logps/rejected": rejected_logps,
    }
    return sums | {name: values.detach().sum() for name, values in pair_figures.items()}


# --- running sums -----------------------------------------------------------------------------------------------------


class RunningSums:
    """Sums over batches since the last `take`, with the names of SUMS, on the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Apple's GPUs have no float64.
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self.tensor: Tensor | None = None

    def add(self, values: Mapping[str, Tensor | int]) -> None:
        """Add the figures of a batch."""
        if self.tensor is None:
            self.tensor = torch.zeros(len(SUMS), dtype=self._dtype, device=self._device)
        for name, value in values.items():
            self.tensor[SUMS.index(name)] += value

    def take(self, accelerator: Any) -> dict[str, float]:
        """Return name -> sum over all processes, and reset; {} if nothing was added. All processes must call it."""
        sums, self.tensor = self.tensor, None
        if sums is None:
            return {}
        return dict(zip(SUMS, accelerator.reduce(sums, "sum").tolist(), strict=True))


def all_finite(tensors: Iterable[Tensor], accelerator: Any) -> bool:
    """Whether all values are finite in all processes; all processes must call it."""
    not_finite = torch.zeros((), device=accelerator.device)
    for tensor in tensors:
        if tensor.numel():
            # The largest absolute value is not finite if any value is not; the norm needs no copy.
            not_finite += ~torch.isfinite(torch.linalg.vector_norm(tensor.detach(), float("inf")))
    return not accelerator.reduce(not_finite, "sum").item()


class Meters:
    """The running sums of a training and its evaluations, and the figures logged from them."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self._training, self._evaluation = RunningSums(accelerator.device), RunningSums(accelerator.device)
        self._last_log: float | None = None

    def start(self) -> None:
        """Start the clock of training, unless it is running."""
        if self._last_log is None:
            self._last_log = time.perf_counter()

    def add(self, training: bool, sums: Mapping[str, Tensor | int]) -> None:
        """Add the figures of a batch."""
        (self._training if training else self._evaluation).add(sums)

    def training_figures(self, loss: LossSpec, router: float) -> dict[str, float]:
        """Return means and speed of training since the last log; {} if there was no batch."""
        sums = self._training.take(self._accelerator)
        if not sums:
            return {}
        now = time.perf_counter()
        seconds = now - (self._last_log or 0.0)
        self._last_log = now
        return _means(sums, loss, router) | {
            "tokens_per_second": sums["real_tokens"] / seconds,
            "tokens": sums["real_tokens"],
            "padding_share": 1 - sums["real_tokens"] / sums["padded_tokens"],
        }

    def last_tokens(self) -> dict[str, float]:
        """Return the tokens trained on since the last log; {} if there were none."""
        sums = self._training.take(self._accelerator)
        return {"tokens": sums["real_tokens"]} if sums else {}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Reset the sums of evaluation, and stop the clock of training inside the block."""
        self._evaluation.tensor = None
        start = time.perf_counter()
        yield
        if self._last_log is not None:
            self._last_log += time.perf_counter() - start

    def evaluation_figures(self, config: LossConfig, loss: LossSpec, router: float) -> dict[str, float]:
        """Return loss and means over all pairs of an evaluation, as if they were one step; {} if there are none."""
        sums = self._evaluation.take(self._accelerator)
        if not sums:
            return {}
        means = _means(sums, loss, router)
        nll = sums["smoothed_nll"] / sums["chosen_tokens" if config.nll_normalization == "token" else "pairs"]
        value = nll if loss.function is None else sums["preference"] / sums["pairs"] + config.cpo_alpha * nll
        return {"loss": value + router * means.get("router_loss", 0.0)} | means

    def what_diverged(self, model: nn.Module) -> str:
        """Return what has become NaN or infinite since the last log ("the loss is", ...), or "".

        Waits for the device. All processes must call it.
        """
        sums = self._training.tensor
        if not all_finite([] if sums is None else [sums], self._accelerator):
            return "the loss is"
        # Weights too: a gradient may overflow in the last step, after its loss was computed.
        trained = (local_part(parameter) for parameter in model.parameters() if parameter.requires_grad)
        return "" if all_finite(trained, self._accelerator) else "a weight is"


def divergence(step: int, config: LossConfig, what: str) -> UserError:
    """Return the error of a training that has diverged; what: "the loss is" or "a weight is"."""
    alpha = " or train.alpha" if config.alpha else ""
    return UserError(
        f"training diverged by step {step}: {what} NaN or infinite; lower train.args.learning_rate{alpha}, "
        "or train in float32 (train.args.bf16=false)"
    )


def _means(sums: Mapping[str, float], loss: LossSpec, router: float) -> dict[str, float]:
    """Return the figures common to logs of training and evaluations. router: weight of the router loss."""
    means = {"nll_loss": sums["nll"] / sums["chosen_tokens"]}
    if loss.function is not None:
        means |= {name: sums[name] / sums["pairs"] for name in PAIR_METRICS}
    if router:
        means["router_loss"] = sums["router_loss"] / sums["real_tokens"]
    return means
