"""Packed linear layers give the products of plain ones, or are not used: the operations of torch are private."""

import copy
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mtcpo.metrics.comet.encoder import states  # noqa: E402
from mtcpo.metrics.comet.packed import PackedLinear, pack  # noqa: E402


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    return transformers.BertModel(config, add_pooling_layer=False).eval()


def last_states(encoder):
    with torch.inference_mode():
        ids = torch.arange(24).view(2, 12)
        return list(states(encoder, ids, None, None, 2, None))[-1]


def packed_layers(encoder):
    return [module for module in encoder.modules() if isinstance(module, PackedLinear)]


def has_operations():
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.mark.skipif(not has_operations(), reason="needs a build of torch with oneDNN")
def test_packed_layers_give_the_same_states(encoder):
    expected = last_states(encoder)
    pack(encoder)
    assert len(packed_layers(encoder)) == 2 * 6
    torch.testing.assert_close(last_states(encoder), expected, atol=1e-5, rtol=0)


def raises(*_):
    raise RuntimeError("mkldnn::_linear_pointwise() Expected at most 5 argument(s)")


def adds_one(inputs, weight, bias, *_):
    return torch.nn.functional.linear(inputs, weight, bias) + 1


def cuts_off(inputs, weight, bias, *_):
    return torch.nn.functional.linear(inputs, weight, bias)[..., :1]


def keeps_weight(weight, _):
    return weight


BROKEN = {
    "no operation at all": {},
    "reordering missing": {"_linear_pointwise": adds_one},
    "product missing": {"_reorder_linear_weight": keeps_weight},
    "product raises": {"_reorder_linear_weight": keeps_weight, "_linear_pointwise": raises},
    "reordering raises": {"_reorder_linear_weight": raises, "_linear_pointwise": adds_one},
    "product differs": {"_reorder_linear_weight": keeps_weight, "_linear_pointwise": adds_one},
    "product of another shape": {"_reorder_linear_weight": keeps_weight, "_linear_pointwise": cuts_off},
}


@pytest.mark.parametrize("operations", BROKEN.values(), ids=BROKEN.keys())
def test_layers_stay_plain_if_torch_lacks_the_operations_or_they_differ(encoder, operations, monkeypatch):
    untouched = copy.deepcopy(encoder)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operations))
    pack(encoder)
    assert not packed_layers(encoder)
    torch.testing.assert_close(last_states(encoder), last_states(untouched), atol=0, rtol=0)
