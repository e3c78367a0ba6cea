"""The output head: log-probabilities of target tokens and the gradient of a loss of them, never all logits at once.

Dimensions: R rows (B sources times their targets, chosen rows first), T target tokens, U positions whose logits are
needed, C of them in a chunk, D hidden, V vocabulary.

For hidden state h_u the logits are z_u = s(W h_u + b), with s the identity, a scale or a soft cap, and for a token n at
position u(n) with label y_n

    logp_n = z_u[y_n] - logsumexp(z_u),        d logp_n / d z_u = onehot(y_n) - p_u,   p_u = softmax(z_u);

for label smoothing also the mean over the vocabulary of log-probabilities, with gradient 1 / V - p_u. Of a loss L with
g_n = dL / d logp_n and m_n that of the mean, where several tokens may share a position (targets that begin alike):

    dL / d z_u = sum_n (g_n onehot(y_n) + m_n / V - (g_n + m_n) p_u),   dH = dZ W,   dW = dZ^T H.

A plain loss makes Z again in its backward pass, a fourth product of U x V x D: g is known only when the loss is. But a
loss of preferences couples only the targets of one source, and its denominators, those of the optimizer step, are
known before. So positions are taken source by source, as many sources as fit a chunk; the loss of those is computed
there and then, and both gradients while the softmax is still in the chunk's only buffer: three products, two with a
frozen head. (Only if the targets of one source exceed a chunk, its logits are made a second time.) The result is the
loss itself; its backward pass hands out what is there already, times its own gradient, as for any other function.

So head and weight meet in the forward pass alone, inside the call of the head's module. What gathers a sharded weight
around that call (FSDP, DeepSpeed ZeRO-3) gathers it once and for everything; hooks on gradients see them arrive as
usual. Everything but the three products is float32: a 60-token target summed in bf16 loses the margin we train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtcpo.models.head.targets import (
    IGNORE,
    LogitTransform,
    Objective,
    TargetPositions,
    TokenScores,
    group_sources,
    split_into_chunks,
)

CHUNK_LOGITS = {"cpu": 64 * 1024 * 1024, "cuda": 256 * 1024 * 1024}
"""Logits alive at once. Fewer positions use the weight, which is as large, less often each time that it is read."""

HALF_SCALE = 1024.0
"""float16 cannot hold gradients of most tokens, which are about 1e-8, and a loss's scaler comes after the products."""


class _Head:
    """One use of a head: the chunk's buffer, and the gradients as they grow."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform, size: int,
                 needs: Sequence[bool], with_means: bool) -> None:  # fmt: skip
        autocast = torch.is_autocast_enabled(hidden.device.type)
        low = torch.get_autocast_dtype(hidden.device.type) if autocast else weight.dtype
        self.hidden, self.weight, self.bias, self.transform = hidden.to(low), weight.to(low), bias, transform
        self.buffer = weight.new_empty((min(size, len(hidden)), len(weight)), dtype=torch.float32)
        grads = (torch.zeros_like(t, dtype=torch.float32) if t is not None and n else None
                 for t, n in zip((hidden, weight, bias), needs, strict=True))  # fmt: skip
        self.grad_hidden, self.grad_weight, self.grad_bias = grads
        self.scale = HALF_SCALE if low == torch.float16 else 1.0
        self.with_means = with_means

    def softmax(self, chunk: slice, slots: Tensor, labels: Tensor, values: Tensor) -> Tensor | None:
        """Put the softmax of a chunk into the buffer, and logps and means of its tokens (N,) into values (2, N).

        Returns:
            The derivative of the transform.
        """
        logits = self.buffer[: chunk.stop - chunk.start]
        if self.weight.dtype == torch.float32:
            torch.mm(self.hidden[chunk], self.weight.T, out=logits)
        else:
            logits.copy_(self.hidden[chunk] @ self.weight.T)
        if self.bias is not None:
            logits.add_(self.bias)
        slope = self.transform.apply_(logits)
        here, inside = _within(slots, chunk)
        largest = logits.amax(-1)
        mean = logits.mean(-1) if self.with_means else None
        of_label = logits[here, labels]
        # In place. exp(z - max) is 1 for the largest, so its probability has the normalizer, whatever underflows.
        torch.softmax(logits, -1, out=logits)
        normalizer = largest - logits.amax(-1).log()
        values[0] = torch.where(inside, of_label - normalizer[here], values[0])
        if mean is not None:
            values[1] = torch.where(inside, (mean - normalizer)[here], values[1])
        return slope

    def add_gradients(self, chunk: slice, slots: Tensor, labels: Tensor, grads: Tensor,
                      slope: Tensor | None) -> None:  # fmt: skip
        """Turn the buffer's softmax into the gradient of the product, and that into those of its factors."""
        grad = self.buffer[: chunk.stop - chunk.start]
        here, inside = _within(slots, chunk)
        grads = grads * inside * (self.scale * self.transform.scale)
        sums = torch.zeros(2, len(grad), device=grad.device).index_add_(1, here, grads)
        grad.mul_(-sums.sum(0)[:, None])
        if self.with_means:
            grad.add_(sums[1][:, None] / grad.shape[1])
        grad.index_put_((here, labels), grads[0], accumulate=True)
        if slope is not None:
            grad.mul_(slope)
        low = grad.to(self.weight.dtype)
        if self.grad_hidden is not None:
            self.grad_hidden[chunk] = (low @ self.weight).float() / self.scale
        if self.grad_weight is not None and low is grad:
            self.grad_weight.addmm_(low.T, self.hidden[chunk])
        elif self.grad_weight is not None:
            self.grad_weight.add_(low.T @ self.hidden[chunk], alpha=1 / self.scale)
        if self.grad_bias is not None:
            self.grad_bias.add_(grad.sum(0), alpha=1 / self.scale)


def _within(slots: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
    """Return where tokens are in a chunk, any place in it for those outside, and which are inside."""
    inside = (slots >= chunk.start) & (slots < chunk.stop)
    return (slots - chunk.start).clamp(0, chunk.stop - chunk.start - 1), inside


class _Scores(torch.autograd.Function):
    """Log-probabilities (R, T) and means of tokens, and the loss with its gradients; see the module's derivation."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
        target_positions: TargetPositions, transform: LogitTransform, with_means: bool,
        objective: Objective | None, with_grads: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        needs = ctx.needs_input_grad[:3] if with_grads and objective is not None else (False,) * 3
        size = max(1, CHUNK_LOGITS.get(hidden.device.type, CHUNK_LOGITS["cuda"]) // len(weight))
        head = _Head(hidden, weight, bias, transform, size, needs, with_means)
        shape = (-1, len(target_positions.positions_per_source), labels.shape[1])
        by_source, slots = labels.reshape(shape), target_positions.slot_of_token.view(shape)
        outcome = torch.zeros(2, *by_source.shape, device=hidden.device)
        loss = torch.zeros((), device=hidden.device)
        for sources, positions in group_sources(target_positions.positions_per_source, size):
            rows = by_source[:, sources].reshape(-1, labels.shape[1])
            tokens = rows.clamp(min=0).flatten()
            # Nowhere: a slot that is in no chunk.
            own = slots[:, sources].reshape(rows.shape).masked_fill(rows == IGNORE, -1).flatten()
            values = outcome.new_zeros(2, *rows.shape)
            flat = values.view(2, -1)
            chunks = split_into_chunks(positions, size)
            for chunk in chunks:
                slope = head.softmax(chunk, own, tokens, flat)
            if objective is not None:
                share, grads = _gradients(objective, values, rows, any(needs))
                loss += share
                for chunk in chunks if any(needs) else ():
                    if len(chunks) > 1:
                        slope = head.softmax(chunk, own, tokens, flat)
                    head.add_gradients(chunk, own, tokens, grads.view(2, -1), slope)
            outcome[:, :, sources] = values.view(2, -1, *by_source[:, sources].shape[1:])
        ctx.grads = head.grad_hidden, head.grad_weight, head.grad_bias
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias)]
        logps, means = outcome.view(2, *labels.shape)
        ctx.mark_non_differentiable(logps, means)
        return loss, logps, means

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None  # the only ones: what they are handed to keeps them
        if grad_loss.device.type != "cpu" or grad_loss != 1:  # elsewhere the test would make us wait for the device
            grads = [None if grad is None else grad.mul_(grad_loss) for grad in grads]
        found = (None if grad is None else grad.to(dtype) for grad, dtype in zip(grads, ctx.dtypes, strict=True))
        return (*found, *(None,) * 6)


def _gradients(objective: Objective, values: Tensor, labels: Tensor, needed: bool) -> tuple[Tensor, Tensor]:
    """Return the loss of some sources, from logps and means (2, R, T), and its gradient, (2, R, T)."""
    with torch.enable_grad():
        leaf = values.detach().requires_grad_(needed)
        loss = objective(TokenScores(leaf[0], leaf[1], labels))
    grads = torch.autograd.grad(loss, leaf)[0] if needed else values
    return loss.detach(), grads


def score_tokens(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, target_positions: TargetPositions,
    transform: LogitTransform, objective: Objective | None = None, with_means: bool = False,
) -> TokenScores:  # fmt: skip
    """Return the log-probability of each label (nats, float32), and the loss that an objective makes of them.

    Args:
        hidden: (P, D), the states of all positions.
        weight: (V, D).
        bias: (V,) or None.
        labels: (R, T), IGNORE where there is none; the first targets of all sources first.
        target_positions: which of the states predicts each label.
        transform: from the product to the logits.
        objective: what the loss is; its gradients reach hidden, weight and bias.
        with_means: also give the mean over the vocabulary of log-probabilities.
    """
    options = target_positions, transform, with_means, objective, torch.is_grad_enabled()
    found = _Scores.apply(hidden[target_positions.positions], weight, bias, labels, *options)  # type: ignore[no-untyped-call]
    loss, logps, means = found
    return TokenScores(logps, means, labels, loss=None if objective is None else loss)
