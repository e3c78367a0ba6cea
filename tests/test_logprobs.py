import pytest
import torch
from torch import nn

from mtcpo import logprobs
from mtcpo.logprobs import IGNORE, Head, LogitTransform, token_logps

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


def gradients(function, hidden, weight, bias, labels, transform):
    """Values, and gradients of a weighted sum, so that each position's gradient differs."""
    leaves = [t for t in (hidden, weight, bias) if t is not None and t.requires_grad]
    logps = function(hidden, weight, bias, labels, transform)
    weights = torch.arange(1.0, logps.numel() + 1).reshape(logps.shape)
    return logps, torch.autograd.grad((logps * weights).sum(), leaves)


@pytest.mark.parametrize("chunk_positions", [1, 4, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_equals_the_plain_computation(monkeypatch, transform, with_bias, chunk_positions):
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", chunk_positions * VOCABULARY)
    hidden, weight, bias, labels = tensors()
    bias = bias if with_bias else None
    ours, our_grads = gradients(token_logps, hidden, weight, bias, labels, transform)
    own, own_grads = gradients(plain, hidden, weight, bias, labels, transform)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), own, atol=1e-5, rtol=1e-5)
    for our, theirs in zip(our_grads, own_grads, strict=True):
        torch.testing.assert_close(our, theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("chunk_positions", [2, 1000])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_means_over_the_vocabulary(monkeypatch, transform, chunk_positions):
    """For label smoothing: a mixture of a label's log-probability and the mean of all, with its gradients."""
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", chunk_positions * VOCABULARY)
    module = nn.Linear(HIDDEN, VOCABULARY)
    hidden, _, _, labels = tensors()

    def ours(hidden, weight, bias, labels, transform):
        with Head(module, None, transform, with_means=True).scoring(labels) as result:
            module(hidden)
        logps, means = result
        return 0.7 * logps + 0.3 * means

    def own(hidden, weight, bias, labels, transform):
        every = [plain(hidden, weight, bias, torch.full_like(labels, y), transform) for y in range(VOCABULARY)]
        mean = torch.stack(every).mean(0).masked_fill(labels == IGNORE, 0.0)
        return 0.7 * plain(hidden, weight, bias, labels, transform) + 0.3 * mean

    arguments = (hidden, module.weight, module.bias, labels, transform)
    (found, our_grads), (expected, own_grads) = gradients(ours, *arguments), gradients(own, *arguments)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    for our, theirs in zip(our_grads, own_grads, strict=True):
        torch.testing.assert_close(our, theirs, atol=1e-4, rtol=1e-5)


def test_ignored_positions_are_zero_and_have_no_gradient():
    hidden, weight, bias, labels = tensors()
    logps, (grad, _, _) = gradients(token_logps, hidden, weight, bias, labels, LogitTransform())
    assert (logps[labels == IGNORE] == 0).all()
    assert (grad[labels == IGNORE] == 0).all()
    assert (grad[labels != IGNORE] != 0).any(dim=-1).all()


def test_nothing_but_ignored_positions():
    hidden, weight, bias, labels = tensors()
    logps, grads = gradients(token_logps, hidden, weight, bias, torch.full_like(labels, IGNORE), LogitTransform())
    assert (logps == 0).all()
    assert all((grad == 0).all() for grad in grads)


def test_frozen_weight_gets_no_gradient_and_hidden_the_same():
    hidden, weight, bias, labels = tensors()
    _, (expected, _, _) = gradients(token_logps, hidden, weight, bias, labels, LogitTransform())
    frozen, frozen_bias = weight.detach(), bias.detach()
    _, (found,) = gradients(token_logps, hidden, frozen, frozen_bias, labels, LogitTransform())
    torch.testing.assert_close(found, expected)
    assert frozen.grad is None


def test_only_the_weight_may_need_a_gradient():
    hidden, weight, bias, labels = tensors()
    _, (_, expected, _) = gradients(token_logps, hidden, weight, bias, labels, LogitTransform())
    _, (found,) = gradients(token_logps, hidden.detach(), weight, bias.detach(), labels, LogitTransform())
    torch.testing.assert_close(found, expected)


def test_half_precision_weights_lose_nothing_after_the_product(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 2 * VOCABULARY)
    hidden, weight, bias, labels = tensors(torch.bfloat16)
    ours, our_grads = gradients(token_logps, hidden, weight, bias, labels, LogitTransform())
    own, own_grads = gradients(plain, hidden, weight, bias, labels, LogitTransform())
    assert ours.dtype == torch.float32
    assert [grad.dtype for grad in our_grads] == [torch.bfloat16] * 3
    torch.testing.assert_close(ours.double(), own, atol=0.05, rtol=0.01)
    for our, theirs in zip(our_grads, own_grads, strict=True):
        torch.testing.assert_close(our.float(), theirs.float(), atol=0.3, rtol=0.05)


def test_autocast_multiplies_in_half_precision_and_keeps_float32_gradients():
    hidden, weight, bias, labels = tensors()
    own, own_grads = gradients(plain, hidden, weight, bias, labels, LogitTransform())
    with torch.autocast("cpu", torch.bfloat16):
        ours, our_grads = gradients(token_logps, hidden, weight, bias, labels, LogitTransform())
    assert ours.dtype == torch.float32
    assert [grad.dtype for grad in our_grads] == [torch.float32] * 3
    torch.testing.assert_close(ours.double(), own, atol=0.1, rtol=0.02)
    assert float((ours.double() - own).detach().abs().max()) > 1e-5, "the product was not in bfloat16"
    for our, theirs in zip(our_grads, own_grads, strict=True):
        torch.testing.assert_close(our.float(), theirs.float(), atol=0.5, rtol=0.1)


def test_no_more_logits_than_a_chunk(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 4 * VOCABULARY + 3)
    sizes = [chunk.stop - chunk.start for chunk in logprobs._chunks(10, VOCABULARY)]
    assert sizes == [4, 4, 2]
    assert list(logprobs._chunks(0, VOCABULARY)) == []
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 1)
    assert [chunk.start for chunk in logprobs._chunks(3, VOCABULARY)] == [0, 1, 2]


class Model(nn.Module):
    """A head on top of what it is given, with something after the head that would fail on a missing position."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, hidden):
        self.seen = self.head(hidden)
        return self.seen


def test_head_is_tapped_and_builds_no_logits():
    hidden, _, _, labels = tensors()
    model = Model()
    extra = torch.randn(1, VOCABULARY)
    head = Head(model.head, extra, LogitTransform(scale=0.5))
    with head.scoring(labels) as result:
        model(hidden)
    assert model.seen.shape == (ROWS, 0, VOCABULARY)
    expected = plain(hidden, model.head.weight, model.head.bias + extra[0], labels, LogitTransform(scale=0.5))
    torch.testing.assert_close(result[0].double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(hidden).shape, (ROWS, TOKENS, VOCABULARY))


def test_hooks_are_gone_after_an_exception():
    hidden, _, _, labels = tensors()
    model = Model()
    with pytest.raises(RuntimeError, match="in the middle"), Head(model.head).scoring(labels):
        raise RuntimeError("in the middle")
    with pytest.raises(RuntimeError), Head(model.head).scoring(labels):
        model(hidden[..., :3])
    assert not model.head._forward_hooks
    assert not model.head._forward_pre_hooks
    assert model(hidden).shape == (ROWS, TOKENS, VOCABULARY)


def test_hidden_states_beyond_the_labels_do_not_count():
    hidden, _, _, labels = tensors()
    model = Model()
    longer = torch.cat([hidden, torch.randn(ROWS, 2, HIDDEN)], dim=1)
    with Head(model.head).scoring(labels) as expected:
        model(hidden)
    with Head(model.head).scoring(labels) as found:
        model(longer)
    torch.testing.assert_close(found[0], expected[0])
