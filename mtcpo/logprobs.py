"""Log-probabilities of target tokens, without ever holding all logits at once.

Dimensions: N real target positions, D hidden, V vocabulary, C positions in a chunk.

For hidden state h_n and label y_n the logits are z_n = s(W h_n + b), with s the identity, a soft cap or a scale, and

    logp_n = z_n[y_n] - logsumexp(z_n).

Only positions with a label meet the vocabulary, C at a time. The backward pass makes each chunk's logits again:

    d logp_n / d z_n = onehot(y_n) - softmax(z_n),

(for label smoothing also the mean over the vocabulary of logp, whose gradient is 1 / V - softmax(z_n)), so no more than
C * V numbers are alive at any moment, where a plain loss holds 2 * B * T * V several times over.
Everything after the product is float32: a 60-token target summed in bf16 loses the margin that we train on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

IGNORE = -100
"""The label of a position that does not count."""

CHUNK_LOGITS = 16 * 1024 * 1024
"""Logits alive at once (64 MiB in float32): on CPU more is slower, on GPU less leaves the matrix units waiting."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its head's product: logits = softcap * tanh(scale * z / softcap), or scale * z."""

    scale: float = 1.0
    softcap: float | None = None

    def forward(self, logits: Tensor) -> Tensor:
        """Apply to float32 logits (C, V)."""
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def backward(self, grad: Tensor, transformed: Tensor) -> Tensor:
        """Turn the gradient of the transformed logits into that of the product; both (C, V)."""
        if self.softcap is not None:
            grad = grad * (1 - (transformed / self.softcap) ** 2)
        return grad if self.scale == 1.0 else grad * self.scale


def _chunks(positions: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    for start in range(0, positions, size):
        yield slice(start, min(start + size, positions))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform) -> Tensor:
    product = nn.functional.linear(hidden, weight, None if bias is None else bias.to(weight.dtype))
    return transform.forward(product.float())


class _TokenLogps(torch.autograd.Function):
    """logp_n = z_n[y_n] - logsumexp(z_n), chunk by chunk, in both directions; see the module's derivation."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, transform: LogitTransform,
        with_means: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        logps = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        means = torch.zeros_like(logps)
        log_normalizers = torch.empty_like(logps)
        for chunk in _chunks(len(labels), len(weight)):
            logits = _logits(hidden[chunk], weight, bias, transform)
            log_normalizers[chunk] = torch.logsumexp(logits, dim=-1)
            logps[chunk] = logits.gather(1, labels[chunk, None]).squeeze(1) - log_normalizers[chunk]
            if with_means:
                means[chunk] = logits.mean(-1) - log_normalizers[chunk]
        ctx.save_for_backward(hidden, weight, bias, labels, log_normalizers)
        ctx.transform, ctx.with_means = transform, with_means
        return logps, means

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, log_normalizers = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Accumulated over chunks: float32 even for a half-precision head, one table and not one for each chunk.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        for chunk in _chunks(len(labels), len(weight)):
            logits = _logits(hidden[chunk], weight, bias, ctx.transform)
            of_label, of_mean = grads[0][chunk, None], grads[1][chunk, None]
            grad = torch.exp(logits - log_normalizers[chunk, None]).mul_(-(of_label + of_mean))
            grad.scatter_add_(1, labels[chunk, None], of_label)
            if ctx.with_means:
                grad += of_mean / len(weight)
            grad = ctx.transform.backward(grad, logits)
            low = grad.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[chunk] = (low @ weight).to(hidden.dtype)
            if grad_weight is not None:
                if low.dtype == torch.float32:
                    grad_weight.addmm_(low.T, hidden[chunk])
                else:
                    grad_weight += low.T @ hidden[chunk]
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None if grad_bias is None else grad_bias.to(bias.dtype), None, None, None


def token_logps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, transform: LogitTransform
) -> Tensor:
    """Return the log-probability (nats, float32) of each label; 0 where the label is IGNORE.

    Shapes: hidden (R, T, D), weight (V, D), bias (V,) or None, labels (R, T) -> (R, T).
    """
    return _token_logps(hidden, weight, bias, labels, transform, with_means=False)[0]


def _token_logps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, transform: LogitTransform, with_means: bool
) -> list[Tensor]:
    """Return `token_logps`, and the mean over the vocabulary of log-probabilities at each position, (R, T) both."""
    real = labels != IGNORE
    if torch.is_autocast_enabled(hidden.device.type):
        low = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(low), weight.to(low)
    flat = _TokenLogps.apply(hidden[real].to(weight.dtype), weight, bias, labels[real], transform, with_means)  # type: ignore[no-untyped-call]
    return [_spread(cast(Tensor, values), real) for values in flat]


def _spread(values: Tensor, real: Tensor) -> Tensor:
    """Put the values (N,) of real positions to their places (R, T), zeros between them."""
    return torch.zeros(real.shape, dtype=torch.float32, device=real.device).masked_scatter(real, values)


@dataclass(slots=True)
class Head:
    """The output head of a model, tapped while the model runs its own forward pass.

    Inside `scoring(labels)` the head module gets no position to multiply, so the model builds no logits; what it was
    to multiply (tied scaling included) gives `token_logps` at once, while its weight is there: sharded weights are
    gathered around the call of their module. A model that alters its logits in a way unknown to us builds its own.
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
    def scoring(self, labels: Tensor) -> Iterator[list[Tensor]]:
        """Tap the next forward pass; afterwards the list holds the log-probabilities of `labels`, and their means."""
        seen: list[Tensor] = []
        result: list[Tensor] = []
        real = labels != IGNORE

        def part(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = args[0]
            if self.own_logits != "none":
                return (hidden[:, : labels.shape[1]][real][None],) if self.own_logits == "real" else args
            seen.append(hidden)
            return (hidden[:, :0],)

        def score(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            weight, bias = cast(Tensor, module.weight), cast("Tensor | None", getattr(module, "bias", None))
            if self.extra_bias is not None:
                bias = self.extra_bias.flatten() + (0.0 if bias is None else bias)
            hidden = seen.pop()[:, : labels.shape[1]]
            result.extend(_token_logps(hidden, weight, bias, labels, self.transform, self.with_means))

        def read(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            logits = output.logits[0] if self.own_logits == "real" else output.logits[:, : labels.shape[1]][real]
            logps = torch.log_softmax(logits.float(), -1)
            flat = logps.gather(1, labels[real, None]).squeeze(1), logps.mean(-1)
            result.extend(_spread(values, real) for values in flat)

        handles = [self.module.register_forward_pre_hook(part)]
        if self.own_logits == "none":
            handles.append(self.module.register_forward_hook(score))
        else:
            assert self.model is not None
            handles.append(self.model.register_forward_hook(read))
        try:
            yield result
        finally:
            for handle in handles:
                handle.remove()
