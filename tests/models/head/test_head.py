from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtcpo.models.head import fused as head
from mtcpo.models.head.fused import score_tokens
from mtcpo.models.head.hooks import Head
from mtcpo.models.head.targets import (
    IGNORE,
    LogitTransform,
    TokenScores,
    group_sources,
    locate_targets,
    split_into_chunks,
)

ROWS, TOKENS, HIDDEN, VOCABULARY = 3, 5, 8, 17

TRANSFORMS = {
    "plain": LogitTransform(),
    "scaled": LogitTransform(scale=0.25),
    "capped": LogitTransform(softcap=1.5),
    "scaled and capped": LogitTransform(scale=2.0, softcap=1.5),
}


def tensors(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(VOCABULARY, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(VOCABULARY, (ROWS, TOKENS), generator=generator)
    labels[0, 3:] = labels[1, 0] = labels[2, 2] = IGNORE
    return hidden, weight, bias, labels


def plain(hidden, weight, bias, labels, transform):
    """All logits at once, in float64, by autograd."""
    logits = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    logits = logits * transform.scale
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    logps = torch.log_softmax(logits, -1).gather(2, labels.clamp(min=0)[..., None]).squeeze(2)
    return torch.where(labels == IGNORE, 0.0, logps)


def weights_of(logps, labels):
    """A weight for each position, so that gradients differ between positions, whatever the order of rows."""
    places = torch.arange(1.0, logps.shape[1] + 1)
    return places * (1 + labels.clamp(min=0).sum(1, keepdim=True) % 7)


def gradients(function, hidden, weight, bias, labels, transform):
    """Values, and gradients of a weighted sum."""
    leaves = [t for t in (hidden, weight, bias) if t is not None and t.requires_grad]
    logps = function(hidden, weight, bias, labels, transform)
    return logps, torch.autograd.grad((logps * weights_of(logps, labels)).sum(), leaves)


def weighted_sum(part):
    """The same as an objective."""
    return (part.token_logps * weights_of(part.token_logps, part.labels)).sum()


def in_order(labels):
    """Target positions where the state at [r, t] predicts labels[r, t], and each row is a source."""
    return locate_targets(labels, torch.arange(labels.numel()).view(labels.shape), len(labels))


def our_gradients(hidden, weight, bias, labels, transform):
    """Values and gradients by the head."""
    leaves = [t for t in (hidden, weight, bias) if t is not None and t.requires_grad]
    scored = score_tokens(hidden.flatten(0, 1), weight, bias, labels, in_order(labels), transform, weighted_sum)
    assert scored.loss.item() == pytest.approx(weighted_sum(scored).item(), rel=1e-5)
    return scored.token_logps, torch.autograd.grad(scored.loss, leaves)


@pytest.mark.parametrize("chunk_positions", [1, 4, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_equals_the_plain_computation(monkeypatch, transform, with_bias, chunk_positions):
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", chunk_positions * VOCABULARY)
    hidden, weight, bias, labels = tensors()
    bias = bias if with_bias else None
    ours, our_grads = our_gradients(hidden, weight, bias, labels, transform)
    own, own_grads = gradients(plain, hidden, weight, bias, labels, transform)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), own, atol=1e-5, rtol=1e-5)
    for our, theirs in zip(our_grads, own_grads, strict=True):
        torch.testing.assert_close(our, theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("chunk_positions", [2, 1000])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_means_over_the_vocabulary(monkeypatch, transform, chunk_positions):
    """For label smoothing: a mixture of a label's log-probability and the mean of all, with its gradients."""
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", chunk_positions * VOCABULARY)
    module = nn.Linear(HIDDEN, VOCABULARY)
    hidden, _, _, labels = tensors()

    def mixture(part):
        mixed = 0.7 * part.token_logps + 0.3 * part.mean_logps
        return (mixed * weights_of(mixed, part.labels)).sum()

    def own(hidden, weight, bias, labels, transform):
        every = [plain(hidden, weight, bias, torch.full_like(labels, y), transform) for y in range(VOCABULARY)]
        mean = torch.stack(every).mean(0).masked_fill(labels == IGNORE, 0.0)
        return 0.7 * plain(hidden, weight, bias, labels, transform) + 0.3 * mean

    with Head(module, None, transform, with_means=True).scoring(labels, in_order(labels), mixture) as result:
        module(hidden)
    our_grads = torch.autograd.grad(result[0].loss, (hidden, module.weight, module.bias))
    found = 0.7 * result[0].token_logps + 0.3 * result[0].mean_logps
    expected, own_grads = gradients(own, hidden, module.weight, module.bias, labels, transform)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    for our, theirs in zip(our_grads, own_grads, strict=True):
        torch.testing.assert_close(our, theirs, atol=1e-4, rtol=1e-5)


def test_ignored_positions_are_zero_and_have_no_gradient():
    hidden, weight, bias, labels = tensors()
    logps, (grad, _, _) = our_gradients(hidden, weight, bias, labels, LogitTransform())
    assert (logps[labels == IGNORE] == 0).all()
    assert (grad[labels == IGNORE] == 0).all()
    assert (grad[labels != IGNORE] != 0).any(dim=-1).all()


def test_nothing_but_ignored_positions():
    hidden, weight, bias, labels = tensors()
    logps, grads = our_gradients(hidden, weight, bias, torch.full_like(labels, IGNORE), LogitTransform())
    assert (logps == 0).all()
    assert all((grad == 0).all() for grad in grads)


def test_frozen_weight_gets_no_gradient_and_hidden_the_same():
    hidden, weight, bias, labels = tensors()
    _, (expected, _, _) = our_gradients(hidden, weight, bias, labels, LogitTransform())
    frozen, frozen_bias = weight.detach(), bias.detach()
    _, (found,) = our_gradients(hidden, frozen, frozen_bias, labels, LogitTransform())
    torch.testing.assert_close(found, expected)
    assert frozen.grad is None


def test_only_the_weight_may_need_a_gradient():
    hidden, weight, bias, labels = tensors()
    _, (_, expected, _) = our_gradients(hidden, weight, bias, labels, LogitTransform())
    _, (found,) = our_gradients(hidden.detach(), weight, bias.detach(), labels, LogitTransform())
    torch.testing.assert_close(found, expected)


def test_no_gradient_is_allocated_that_is_not_needed(monkeypatch):
    """The weight's is as large as the weight."""
    made = []

    class Seen(head._Head):
        def __init__(self, *args):
            super().__init__(*args)
            made.append([grad is not None for grad in (self.grad_hidden, self.grad_weight, self.grad_bias)])

    monkeypatch.setattr(head, "_Head", Seen)
    hidden, weight, bias, labels = tensors()
    our_gradients(hidden, weight, bias, labels, LogitTransform())
    our_gradients(hidden, weight.detach(), bias.detach(), labels, LogitTransform())
    our_gradients(hidden.detach(), weight, None, labels, LogitTransform())
    given = hidden.flatten(0, 1), weight, bias, labels, in_order(labels), LogitTransform()
    assert score_tokens(*given).loss is None
    scored = score_tokens(*given, weighted_sum)
    assert [t.requires_grad for t in (scored.loss, scored.token_logps, scored.mean_logps)] == [True, False, False]
    with torch.no_grad():
        assert not score_tokens(*given, weighted_sum).loss.requires_grad
    assert made == [
        [True, True, True],
        [True, False, False],
        [False, True, False],
        [False] * 3,
        [True] * 3,
        [False] * 3,
    ]


def test_half_precision_weights_lose_nothing_after_the_product(monkeypatch):
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", 2 * VOCABULARY)
    hidden, weight, bias, labels = tensors(torch.bfloat16)
    ours, our_grads = our_gradients(hidden, weight, bias, labels, LogitTransform())
    own, own_grads = gradients(plain, hidden, weight, bias, labels, LogitTransform())
    assert ours.dtype == torch.float32
    assert [grad.dtype for grad in our_grads] == [torch.bfloat16] * 3
    torch.testing.assert_close(ours.double(), own, atol=0.05, rtol=0.01)
    for our, theirs in zip(our_grads, own_grads, strict=True):
        torch.testing.assert_close(our.float(), theirs.float(), atol=0.3, rtol=0.05)


class Products(TorchDispatchMode):
    """The types of what is multiplied."""

    def __init__(self):
        super().__init__()
        self.types = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_, torch.ops.aten.addmm):
            self.types.append(tuple(arg.dtype for arg in args[-2:]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_three_products_in_the_requested_precision(dtype):
    """And two where the weight is frozen."""
    hidden, weight, bias, labels = tensors(dtype)
    with Products() as seen:
        our_gradients(hidden, weight, bias, labels, LogitTransform())
    assert seen.types == [(dtype, dtype)] * 3
    hidden, weight, bias, labels = tensors()
    with Products() as seen, torch.autocast("cpu", torch.bfloat16):
        our_gradients(hidden, weight.detach(), bias, labels, LogitTransform())
    assert seen.types == [(torch.bfloat16, torch.bfloat16)] * 2


def test_autocast_multiplies_in_half_precision_and_keeps_float32_gradients():
    hidden, weight, bias, labels = tensors()
    own, own_grads = gradients(plain, hidden, weight, bias, labels, LogitTransform())
    with torch.autocast("cpu", torch.bfloat16):
        ours, our_grads = our_gradients(hidden, weight, bias, labels, LogitTransform())
    assert ours.dtype == torch.float32
    assert [grad.dtype for grad in our_grads] == [torch.float32] * 3
    torch.testing.assert_close(ours.double(), own, atol=0.1, rtol=0.02)
    assert float((ours.double() - own).detach().abs().max()) > 1e-5, "the product was not in bfloat16"
    for our, theirs in zip(our_grads, own_grads, strict=True):
        torch.testing.assert_close(our.float(), theirs.float(), atol=0.5, rtol=0.1)


def test_no_more_logits_than_a_chunk():
    sizes = [chunk.stop - chunk.start for chunk in split_into_chunks(slice(0, 10), 4)]
    assert sizes == [4, 4, 2]
    assert split_into_chunks(slice(0, 0), 4) == []
    assert [chunk.start for chunk in split_into_chunks(slice(5, 8), 1)] == [5, 6, 7]


def test_sources_are_grouped_up_to_the_size_of_a_chunk():
    found = [(s.start, s.stop, p.start, p.stop) for s, p in group_sources([3, 2, 9, 1, 3, 0], 5)]
    assert found == [(0, 2, 0, 5), (2, 3, 5, 14), (3, 6, 14, 18)]
    assert list(group_sources([], 5)) == []


def test_target_positions_by_hand():
    """Two sources with two targets each; the first source's share their first two positions."""
    n = IGNORE
    labels = torch.tensor([[5, 6, 7], [5, 6, n], [5, 8, n], [9, n, n]])
    positions = torch.tensor([[0, 1, 2], [3, 4, 5], [0, 1, 8], [9, 10, 11]])
    found = locate_targets(labels, positions, 2)
    assert found.positions.tolist() == [0, 1, 2, 3, 4, 9]
    assert found.positions_per_source == [3, 3]
    slots = found.slot_of_token.masked_fill(labels == n, n)
    assert slots.tolist() == [[0, 1, 2], [3, 4, n], [0, 1, n], [5, n, n]]


def test_positions_are_not_shared_with_a_token_without_label():
    labels, positions = torch.tensor([[5, IGNORE], [6, 7]]), torch.tensor([[0, 1], [0, 1]])
    found = locate_targets(labels, positions, 1)
    assert (found.positions.tolist(), found.positions_per_source) == ([0, 1], [2])
    assert found.slot_of_token[1].tolist() == [0, 1]


@pytest.mark.parametrize("chunk_positions", [1, 3, 1000])
def test_loss_of_pairs_with_shared_positions(monkeypatch, chunk_positions):
    """A loss that couples the targets of a source, some of whose tokens share a state; autograd over all logits."""
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", chunk_positions * VOCABULARY)
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(9, HIDDEN, generator=generator).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator).requires_grad_()
    labels = torch.tensor([[3, 4, 5], [6, 7, IGNORE], [3, 9, IGNORE], [6, 7, 8]])
    positions = torch.tensor([[0, 1, 2], [3, 4, 0], [0, 1, 0], [3, 7, 8]])

    def objective(part):
        chosen, rejected = part.token_logps.sum(1).chunk(2)
        return -torch.nn.functional.logsigmoid(0.3 * (chosen - rejected)).sum() - 0.2 * chosen.sum()

    options = weight, None, labels, locate_targets(labels, positions, 2), LogitTransform(), objective
    scored = score_tokens(states, *options)
    found = torch.autograd.grad(3 * scored.loss, (states, weight))
    logps = torch.log_softmax(states @ weight.T, -1)[positions]
    logps = logps.gather(2, labels.clamp(min=0)[..., None]).squeeze(2).masked_fill(labels == IGNORE, 0.0)
    torch.testing.assert_close(scored.token_logps, logps.detach(), atol=1e-5, rtol=1e-5)
    own = objective(TokenScores(logps, logps, labels))
    assert scored.loss.item() == pytest.approx(own.item(), rel=1e-5)
    for ours, theirs in zip(found, torch.autograd.grad(3 * own, (states, weight)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        assert score_tokens(states, *options).loss.item() == pytest.approx(own.item(), rel=1e-5)
    with pytest.raises(TypeError):
        scored.loss.backward()  # what it had is handed out


def test_float16_keeps_gradients_that_are_smaller_than_it_can_hold():
    """As with a gradient scaler: the loss times 65536 is differentiated."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, HIDDEN, generator=generator)
    weight = torch.randn(50_000, HIDDEN, generator=generator) * 0.1
    bias = torch.randn(50_000, generator=generator) * 0.1
    labels, positions = torch.tensor([[1, 2], [3, 4]]), torch.arange(4).view(2, 2)
    found = []
    for dtype in (torch.float32, torch.float16):
        leaves = states.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), bias.to(dtype).requires_grad_()
        target_positions = locate_targets(labels, positions, 2)
        options = labels, target_positions, LogitTransform(), lambda part: part.token_logps.sum() / 1000
        loss = 65536 * score_tokens(*leaves, *options).loss
        found.append([grad.float() for grad in torch.autograd.grad(loss, leaves)])
    for full, half in zip(*found, strict=True):
        assert float((half - full).norm() / full.norm()) < 0.01


class Model(nn.Module):
    """A head on top of what it is given, with something after the head that would fail on a missing position."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, hidden):
        self.seen = self.head(hidden)
        return SimpleNamespace(logits=self.seen)


def test_hooks_score_without_building_logits():
    hidden, _, _, labels = tensors()
    model = Model()
    extra = torch.randn(1, VOCABULARY)
    head_of_model = Head(model.head, extra, LogitTransform(scale=0.5))
    with head_of_model.scoring(labels, in_order(labels)) as result:
        model(hidden)
    assert model.seen.shape == (ROWS, 0, VOCABULARY)
    expected = plain(hidden, model.head.weight, model.head.bias + extra[0], labels, LogitTransform(scale=0.5))
    torch.testing.assert_close(result[0].token_logps.double(), expected, atol=1e-5, rtol=1e-5)
    assert model(hidden).logits.shape == (ROWS, TOKENS, VOCABULARY)


def test_hooks_are_removed_after_an_exception():
    hidden, _, _, labels = tensors()
    model = Model()
    with pytest.raises(RuntimeError, match="in the middle"), Head(model.head).scoring(labels, in_order(labels)):
        raise RuntimeError("in the middle")
    with pytest.raises(RuntimeError), Head(model.head).scoring(labels, in_order(labels)):
        model(hidden[..., :3])
    assert not model.head._forward_hooks
    assert not model.head._forward_pre_hooks
    assert model(hidden).logits.shape == (ROWS, TOKENS, VOCABULARY)


@pytest.mark.parametrize("logits_mode", ["none", "real", "all"])
def test_all_logits_modes_give_the_same_scores(logits_mode):
    """By the head's weight, or by the model's own logits of some or all positions; two targets share a state."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(4, 3, HIDDEN, generator=generator).requires_grad_()
    labels = torch.tensor([[3, 4, 5], [6, 7, IGNORE], [3, 9, IGNORE], [6, IGNORE, IGNORE]])
    positions = torch.arange(12).view(4, 3)
    positions[2, 0] = 0  # as the first source's first target
    model = Model()

    def objective(part):
        mixed = 0.8 * part.token_logps + 0.2 * part.mean_logps
        return (mixed * torch.arange(1.0, 4.0)).sum()

    head_of_model = Head(model.head, with_means=True, model=model, logits_mode=logits_mode)
    with head_of_model.scoring(labels, locate_targets(labels, positions, 2), objective) as result:
        model(hidden)
    logps = torch.log_softmax(model.head(hidden), -1).flatten(0, 1)[positions]
    of_labels = logps.gather(2, labels.clamp(min=0)[..., None]).squeeze(2).masked_fill(labels == IGNORE, 0.0)
    expected = TokenScores(of_labels, logps.mean(-1).masked_fill(labels == IGNORE, 0.0), labels)
    torch.testing.assert_close(result[0].token_logps, expected.token_logps)
    torch.testing.assert_close(result[0].mean_logps, expected.mean_logps)
    assert result[0].loss.item() == pytest.approx(objective(expected).item(), rel=1e-5)
    leaves = hidden, model.head.weight, model.head.bias
    found = torch.autograd.grad(result[0].loss, leaves)
    for ours, theirs in zip(found, torch.autograd.grad(objective(expected), leaves), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
