"""Each source is encoded once, for all its targets."""

import pytest
import torch
from support.models import preference_texts

from mtcpo.models.layouts.encode_once import encode_once
from mtcpo.training.prepare import set_dropout


@pytest.mark.parametrize("kind", ["mt5", "marian", "m2m100", "nllb"])
def test_encoder_runs_once_a_source_and_both_targets_see_one_dropout_mask(load, kind):
    loaded = load(kind)
    set_dropout(loaded.model, 0.3)
    loaded.model.train()
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(4)))
    encoded, given = [], []
    decoder, encoder = loaded.model.get_decoder(), loaded.model.get_encoder()
    handles = [
        encoder.register_forward_hook(lambda module, args, output: encoded.append(len(output.last_hidden_state))),
        decoder.register_forward_pre_hook(
            lambda module, args, kwargs: given.append(kwargs["encoder_hidden_states"]), with_kwargs=True
        ),
    ]
    torch.manual_seed(0)
    first = loaded.layout.score(loaded.model, loaded.head, batch).token_logps
    second = loaded.layout.score(loaded.model, loaded.head, batch).token_logps
    for handle in handles:
        handle.remove()
    assert encoded == [4, 4]
    for states in given:
        assert states.shape[0] == 8
        assert torch.equal(states[:4], states[4:])
    assert not torch.equal(given[0], given[1]), "dropout was not active"
    assert not torch.equal(first, second)


def test_hooks_are_gone_after_an_exception(load):
    encoder = load("mt5").model.get_encoder()
    with pytest.raises(RuntimeError, match="in the middle"), encode_once(encoder, 1, 2):
        raise RuntimeError("in the middle")
    assert not encoder._forward_hooks
    assert not encoder._forward_pre_hooks
