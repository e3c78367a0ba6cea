"""The fused head: log-probabilities of target tokens, and a loss with its gradients, without all logits at once.

Dimensions: R rows (B sources times their targets, chosen rows first), T target tokens, U positions whose logits are
needed, C of them in a chunk, D hidden, V vocabulary.

For hidden state h_u the logits are z_u = s(W h_u + b), with s the identity, a scale or a soft cap, and for a token n at
position u(n) with label y_n

    logp_n = z_u[y_n] - logsumexp(z_u),        d logp_n / d z_u = onehot(y_n) - p_u,   p_u = softmax(z_u);

and for label smoothing also the mean of the log-probabilities over the vocabulary, with gradient 1 / V - p_u. For a
loss L with g_n = dL / d logp_n, and m_n the same for the mean (tokens may share a position if targets begin alike):

    dL / d z_u = sum_n (g_n onehot(y_n) + m_n / V - (g_n + m_n) p_u),   dH = dZ W,   dW = dZ^T H.

A plain chunked loss computes Z again in its backward pass, a fourth product of U x V x D, because g is known only after
the loss. But a preference loss couples only the targets of one source, and its normalizers, the counts of the optimizer
step, are known in advance. So positions are grouped by source, as many sources as fit a chunk. Their loss is computed
at once, and both gradients while the softmax is still in the chunk's only buffer: three products, or two with a frozen
head. (Only if the targets of a single source exceed a chunk are its logits computed twice.) The result is the loss
itself; its backward pass multiplies the stored gradients by the incoming one.

So the weight is needed only in the forward pass, inside the call of the head's module. FSDP and DeepSpeed ZeRO-3, which
gather a sharded weight around that call, gather it once, and hooks on gradients see them arrive as usual.
Everything but the three products is float32: a 60-token target summed in bf16 loses the margin we train on.
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
"""Logits in memory at once, by device. Smaller chunks would read the weight, which is large too, more often."""

HALF_SCALE = 1024.0
"""Most tokens' gradients, about 1e-8, underflow in float16, and the loss scaler acts only after the products."""

NOWHERE = -1
"""Slot of a token without a label: it is in no chunk."""


class _Head:
    """One use of a head: the chunk's buffer, and the accumulated gradients."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform,
                 needs: Sequence[bool], with_means: bool) -> None:  # fmt: skip
        autocast = torch.is_autocast_enabled(hidden.device.type)
        low = torch.get_autocast_dtype(hidden.device.type) if autocast else weight.dtype
        self.hidden, self.weight, self.bias, self.transform = hidden.to(low), weight.to(low), bias, transform
        self.size = max(1, CHUNK_LOGITS.get(hidden.device.type, CHUNK_LOGITS["cuda"]) // len(weight))
        self.buffer = weight.new_empty((min(self.size, len(hidden)), len(weight)), dtype=torch.float32)
        self.needs_grads = any(needs)
        grads: list[Tensor | None] = [None, None, None]
        for i, tensor in enumerate((hidden, weight, bias)):
            if tensor is not None and needs[i]:
                grads[i] = torch.zeros_like(tensor, dtype=torch.float32)
        self.grad_hidden, self.grad_weight, self.grad_bias = grads
        self.scale = HALF_SCALE if low == torch.float16 else 1.0
        self.with_means = with_means

    def score(
        self, labels: Tensor, slots: Tensor, positions: slice, objective: Objective | None
    ) -> tuple[Tensor | None, Tensor]:
        """Score the targets of some sources: labels and slots (R, T) at the given positions.

        Returns:
            Their part of the loss, and log-probabilities and means (2, R, T). Gradients are accumulated in the head.
        """
        values = self.buffer.new_zeros(2, *labels.shape)
        tokens, flat_slots, flat_values = labels.clamp(min=0).flatten(), slots.flatten(), values.view(2, -1)
        chunks = split_into_chunks(positions, self.size)
        for chunk in chunks:
            slope = self.softmax(chunk, flat_slots, tokens, flat_values)
        if objective is None:
            return None, values
        loss, grads = _gradients(objective, values, labels, self.needs_grads)
        for chunk in chunks if self.needs_grads else ():
            if len(chunks) > 1:  # the buffer holds the last chunk alone
                slope = self.softmax(chunk, flat_slots, tokens, flat_values)
            self.add_gradients(chunk, flat_slots, tokens, grads.view(2, -1), slope)
        return loss, values

    def softmax(self, chunk: slice, slots: Tensor, labels: Tensor, values: Tensor) -> Tensor | None:
        """Write the softmax of a chunk to the buffer, and logps and means of its tokens (N,) to values (2, N).

        Returns:
            The derivative of the transform (C, V); None if it is constant.
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
        label_logits = logits[here, labels]
        # In place. exp(z - max) is 1 for the largest logit, so its probability is 1 / sum: this gives the logsumexp
        # without a second buffer, whatever underflows.
        torch.softmax(logits, -1, out=logits)
        normalizer = largest - logits.amax(-1).log()
        values[0] = torch.where(inside, label_logits - normalizer[here], values[0])
        if mean is not None:
            values[1] = torch.where(inside, (mean - normalizer)[here], values[1])
        return slope

    def add_gradients(self, chunk: slice, slots: Tensor, labels: Tensor, grads: Tensor,
                      slope: Tensor | None) -> None:  # fmt: skip
        """Turn the buffer's softmax into the product's gradient, and accumulate those of states, weight and bias.

        grads: (2, N), gradients of the loss with respect to each token's log-probability and mean.
        """
        grad = self.buffer[: chunk.stop - chunk.start]
        here, inside = _within(slots, chunk)
        grads = grads * inside * (self.scale * self.transform.scale)
        # Tokens that share a position (targets that begin alike) are summed.
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
    """Return each token's index in a chunk (arbitrary for tokens outside), and a mask of tokens inside."""
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
        head = _Head(hidden, weight, bias, transform, needs, with_means)
        positions_per_source = target_positions.positions_per_source
        shape = (-1, len(positions_per_source), labels.shape[1])  # targets of a source, B, T
        labels_by_source, slots_by_source = labels.reshape(shape), target_positions.slot_of_token.view(shape)
        values_by_source = torch.zeros(2, *labels_by_source.shape, device=hidden.device)
        loss = torch.zeros((), device=hidden.device)
        for sources, positions in group_sources(positions_per_source, head.size):
            rows = labels_by_source[:, sources].reshape(-1, labels.shape[1])
            slots = slots_by_source[:, sources].reshape(rows.shape).masked_fill(rows == IGNORE, NOWHERE)
            loss_of_group, values = head.score(rows, slots, positions, objective)
            if loss_of_group is not None:
                loss += loss_of_group
            values_by_source[:, :, sources] = values.view(2, -1, *labels_by_source[:, sources].shape[1:])
        ctx.grads = head.grad_hidden, head.grad_weight, head.grad_bias
        ctx.dtypes = hidden.dtype, weight.dtype, torch.float32 if bias is None else bias.dtype
        logps, means = values_by_source.view(2, *labels.shape)
        ctx.mark_non_differentiable(logps, means)
        return loss, logps, means

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None  # not copied: the receiver owns them
        results: list[Tensor | None] = []
        # On other devices than a CPU, the comparison would synchronize.
        is_scaled = grad_loss.device.type != "cpu" or bool(grad_loss != 1)
        for grad, dtype in zip(grads, ctx.dtypes, strict=True):
            scaled = grad.mul_(grad_loss) if grad is not None and is_scaled else grad
            results.append(None if scaled is None else scaled.to(dtype))
        return (*results, *(None,) * 6)


def _gradients(objective: Objective, values: Tensor, labels: Tensor, needed: bool) -> tuple[Tensor, Tensor]:
    """Return the loss of some sources and its gradient (2, R, T), from logps and means (2, R, T)."""
    with torch.enable_grad():
        leaf = values.detach().requires_grad_(needed)
        loss = objective(TokenScores(leaf[0], leaf[1], labels))
    grads = torch.autograd.grad(loss, leaf)[0] if needed else values
    return loss.detach(), grads


def score_tokens(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, target_positions: TargetPositions,
    transform: LogitTransform, objective: Objective | None = None, with_means: bool = False,
) -> TokenScores:  # fmt: skip
    """Return the log-probability of each label (nats, float32), and the objective's loss computed from them.

    Args:
        hidden: (R * P, D), the states of all positions of all rows.
        weight: (V, D).
        bias: (V,) or None.
        labels: (R, T), IGNORE if there is none; the first targets of all sources come first.
        target_positions: which of the states predicts each label.
        transform: product -> logits.
        objective: the loss; its gradients flow to hidden, weight and bias.
        with_means: also compute the mean of the log-probabilities over the vocabulary.
    """
    options = target_positions, transform, with_means, objective, torch.is_grad_enabled()
    needed_states = hidden[target_positions.positions]
    loss, logps, means = _Scores.apply(needed_states, weight, bias, labels, *options)  # type: ignore[no-untyped-call]
    return TokenScores(logps, means, labels, loss=None if objective is None else loss)
