"""Pairs of decoder-only models in one row: prompt, chosen, what is left of rejected."""

from dataclasses import replace

import pytest
import torch

from mtcpo.models.adapters import add_adapters
from mtcpo.models.config import LoraConfig
from mtcpo.models.head.targets import IGNORE
from mtcpo.models.layouts.base import Example
from mtcpo.models.layouts.packing import can_pack, packed_length, packed_mask

ALIKE = [Example((11, 12, 1), ((21, 22, 1), (21, 23, 24, 1))), Example((13, 1), ((24, 1), (25, 26, 27, 1)))]


def test_packed_pairs_by_hand(load):
    """Prompt, chosen, rejected; the first pair begins alike with 21. End tokens are predicted and not read."""
    layout = load("llama").layout
    batch = layout.collate(ALIKE)
    n = IGNORE
    assert batch["input_ids"].tolist() == [[11, 12, 1, 21, 22, 23, 24], [13, 1, 24, 25, 26, 27, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 4, 5], [0, 1, 2, 2, 3, 4, 0]]
    assert batch["parts"].tolist() == [[0, 0, 0, 0, 1, 2, 2], [0, 0, 1, 2, 2, 2, -1]]
    assert batch["labels"].tolist() == [[21, 22, 1, n], [24, 1, n, n], [21, 23, 24, 1], [25, 26, 27, 1]]
    assert batch["positions"].tolist() == [[2, 3, 4, 0], [8, 9, 0, 0], [2, 3, 5, 6], [8, 10, 11, 12]]
    assert (batch["target_positions"].tolist(), batch["positions_per_source"]) == (
        [2, 3, 4, 5, 6, 8, 9, 10, 11, 12],
        [5, 5],
    )
    assert batch["slot_of_token"].masked_fill(batch["labels"] == n, n).tolist() == [
        [0, 1, 2, n], [5, 6, n, n], [0, 1, 3, 4], [5, 7, 8, 9],
    ]  # fmt: skip
    assert [layout.lengths(example) for example in ALIKE] == [(7, 0), (6, 0)]
    assert [int(count) for count in layout.count_tokens(batch)] == [13, 14]
    seen = packed_mask(batch["parts"])[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 1, 0],
        [1, 1, 1, 1, 0, 1, 1],
    ]


def real_logps(loaded, batch):
    """Log-probabilities of the tokens that have a label."""
    token_logps = loaded.layout.score(loaded.model, loaded.head, batch).token_logps
    return token_logps[batch["labels"] != IGNORE]


@pytest.mark.parametrize(
    "rest", [((5, 1), (5, 1)), ((5, 1), (5, 6, 1)), ((5, 6, 1), (5, 1)), ((1,), (7, 1)), ((1,), (1,))]
)
def test_packed_rows_of_targets_that_contain_each_other(load, rest):
    loaded = load("llama")
    examples = [Example((13, 14, 15), rest), Example((16, 17), ((4, 5, 1), (4, 6, 1)))]
    packed, rows = loaded.layout.collate(examples), replace(loaded.layout, packs=False).collate(examples)
    with torch.no_grad():
        found, expected = (real_logps(loaded, batch) for batch in (packed, rows))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


class WithoutPositions(torch.nn.Module):
    """A model that counts positions itself."""

    def __init__(self, model):
        super().__init__()
        self.config, self.model = model.config, model

    def forward(self, input_ids, attention_mask=None):
        return self.model(input_ids, attention_mask)


def test_a_common_prefix_takes_its_positions_once():
    assert [packed_length(((13, 14), *targets)) for targets in (
        ((5, 1), (5, 6, 1)), ((5, 6, 1), (5, 1)), ((5, 1), (5, 1)), ((1,), (5, 1)), ((5, 7, 1), (5, 6, 1)),
        ((5, 1), (6, 1)),
    )] == [4, 4, 3, 3, 5, 4]  # fmt: skip


def test_models_that_take_packed_rows(load):
    """Not a model that takes no positions; one with adapters as it would without."""
    loaded = load("llama")
    assert can_pack(loaded.model)
    assert not can_pack(WithoutPositions(loaded.model))
    assert can_pack(add_adapters(loaded.model, loaded.family, LoraConfig(r=2), loaded.name))


def test_pairs_that_are_not_packed(load):
    loaded = load("llama")
    attention = loaded.model.config._attn_implementation
    assert can_pack(loaded.model)
    loaded.model.config._attn_implementation = "eager"
    assert not can_pack(loaded.model)
    loaded.model.config._attn_implementation = attention
    assert not can_pack(load("mixtral").model)
    assert not can_pack(load("mt5").model)
    # A model whose tokens see 6 positions back: the second pair is as long as that, with a target of 6 too long.
    loaded.model.config.sliding_window = 6
    assert "parts" in loaded.layout.collate(ALIKE[1:])
    longer = Example((13, 1), ((24, 1), (25, 26, 27, 28, 1)))
    assert loaded.layout.lengths(longer) == (0, 7)
    assert "parts" not in loaded.layout.collate([ALIKE[1], longer])
