"""Each source is encoded once for all its targets, and all tokens are looked up in one call."""

import pytest
import torch
from support.models import preference_texts

from mtcpo.models.layouts.encode_once import encode_once, look_up_once
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


@pytest.mark.parametrize("kind", ["mt5", "marian", "m2m100", "nllb"])
def test_tokens_are_looked_up_once(load, kind, monkeypatch):
    """A lookup's gradient is as large as the embeddings: there is one, of the same value."""
    loaded = load(kind)
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(4)))
    calls, look_up = [], torch.nn.functional.embedding

    def counted(ids, weight, *args, **kwargs):
        if weight is loaded.model.get_input_embeddings().weight:
            calls.append(ids.numel())
        return look_up(ids, weight, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "embedding", counted)
    loaded.layout.score(loaded.model, loaded.head, batch)
    assert calls == [batch["input_ids"].numel() + batch["labels"].numel(), 0]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.model.modules())


class Scaled(torch.nn.Embedding):
    """Embeddings as M2M100 has them."""

    def __init__(self, weight, scale):
        super().__init__(*weight.shape)
        self.weight, self.embed_scale = weight, scale

    def forward(self, ids):
        return super().forward(ids) * self.embed_scale


class Part(torch.nn.Module):
    """An encoder or decoder that looks up and does nothing else; `name` is what it calls its embeddings."""

    def __init__(self, embeddings, name="embed_tokens"):
        super().__init__()
        self.name = name
        setattr(self, name, embeddings)

    def forward(self, ids):
        return getattr(self, self.name)(ids)


def lookups(case):
    one, other = torch.nn.Embedding(9, 4), torch.nn.Embedding(9, 4)
    weight = one.weight
    return {
        "one module": (Part(one), Part(one)),
        "one weight": (Part(Scaled(weight, 2.0)), Part(Scaled(weight, 2.0))),
        "two scales": (Part(Scaled(weight, 2.0)), Part(Scaled(weight, 3.0))),
        "two weights": (Part(one), Part(other)),
        "two kinds": (Part(one), Part(Scaled(weight, 2.0))),
        "by other names": (Part(one, "words"), Part(one, "words")),
        "no embeddings": (Part(torch.nn.Flatten()), Part(torch.nn.Flatten())),
    }[case]


@pytest.mark.parametrize(
    ("case", "calls"),
    [("one module", 1), ("one weight", 1), ("two scales", 2), ("two weights", 2), ("two kinds", 2),
     ("by other names", 2), ("no embeddings", 0)],
)  # fmt: skip
def test_only_shared_embeddings_are_looked_up_once(case, calls):
    encoder, decoder = lookups(case)
    sources, targets = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5], [6, 7]])
    expected = encoder(sources), decoder(targets)
    rows = []
    modules = {module for part in (encoder, decoder) for module in part.modules()
              if isinstance(module, torch.nn.Embedding)}  # fmt: skip
    for module in modules:
        module.register_forward_hook(lambda module, args, output: rows.append(args[0].numel()))
    with look_up_once(encoder, decoder, targets):
        found = encoder(sources), decoder(targets)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len([row for row in rows if row]) == calls


def test_hooks_are_removed_after_an_exception(load):
    encoder = load("mt5").model.get_encoder()
    with pytest.raises(RuntimeError, match="in the middle"), encode_once(encoder, 1, 2):
        raise RuntimeError("in the middle")
    assert not encoder._forward_hooks
    assert not encoder._forward_pre_hooks
