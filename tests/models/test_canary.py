"""The canary finds what has changed, and chooses how log-probabilities are read."""

import json
import logging

import pytest
import torch
from support.model_copies import edit_json, edit_tensors, load_here, text_of
from support.models import preference_texts

from mtcpo.core.errors import UserError
from mtcpo.models.canary import CANARY_FILE, TEXTS, head_and_model_logps
from mtcpo.models.head.hooks import Head
from mtcpo.models.head.targets import LogitTransform
from mtcpo.models.loading import save_model
from mtcpo.training.config import TrainConfig
from mtcpo.training.train import train


def test_a_missing_normalizer_is_caught(load, tmp_path):
    """The third text of the canary has characters that only a normalizer maps to known ones."""
    save_model(load("umt5"), tmp_path, ("en", "de"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"normalizer": None}), encoding="utf-8")
    with pytest.raises(UserError, match=r"canary\.json .*: the tokenizer no longer produces the token ids"):
        load_here(tmp_path)


def test_a_canary_without_the_field_texts_has_two(load, tmp_path):
    save_model(load("mt5"), tmp_path, ("en", "de"))
    path = tmp_path / CANARY_FILE
    canary = json.loads(path.read_text(encoding="utf-8"))
    del canary["texts"]
    path.write_text(json.dumps(canary), encoding="utf-8")
    with pytest.raises(UserError, match="no longer produces the token ids saved with this model"):
        load_here(tmp_path)
    loaded = load("mt5")
    batch = loaded.layout.collate(loaded.layout.encode(
        [text_of(source, target) for source, target in TEXTS[:2]]
    ))  # fmt: skip
    old = {"input_ids": batch["input_ids"].tolist(), "labels": batch["labels"].tolist()}
    old["logps"] = head_and_model_logps(loaded.model, loaded.layout, loaded.head, batch)[0].tolist()
    path.write_text(json.dumps(canary | old), encoding="utf-8")
    assert load_here(tmp_path).family.name == "mt5"


# --- models that alter their logits in ways unknown to us -----------------------------------------------------------


def altered(logits):
    """By vocabulary: sharper in its first half."""
    half = logits.shape[-1] // 2
    return torch.cat([logits[..., :half] * 1.7 + 0.3, logits[..., half:]], -1)


def by_place(logits):
    """By position: another bias for every column, which fails where columns are missing."""
    places = torch.arange(200.0)[: logits.shape[1]]
    if logits.shape[1] in (0, 1) or logits.shape[0] == 1:
        raise RuntimeError("expected every position")
    return logits * (1 + places[:, None] / 40)


@pytest.fixture
def alter(monkeypatch):
    """A function that makes a model's own forward pass alter its logits."""

    def change(kind, function):
        import transformers

        cls = {"llama": transformers.LlamaForCausalLM, "mt5": transformers.MT5ForConditionalGeneration}[kind]
        forward = cls.forward

        def altering(self, *args, **kwargs):
            output = forward(self, *args, **kwargs)
            output.logits = function(output.logits)
            return output

        monkeypatch.setattr(cls, "forward", altering)

    return change


@pytest.mark.parametrize(("function", "positions"), [(altered, "real"), (by_place, "all")])
@pytest.mark.parametrize("kind", ["llama", "mt5"])
def test_the_logits_of_a_model_that_alters_them_are_used(copy, alter, kind, function, positions, caplog):
    folder = copy(kind)
    (folder / CANARY_FILE).unlink()
    alter(kind, function)
    with caplog.at_level(logging.WARNING, logger="mtcpo"):
        loaded = load_here(folder)
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "mtcpo.models.canary"]
    assert "\n" not in warning
    reason = "differ from the model's own by" if positions == "real" else "needs every position (expected every"
    assert str(folder) in warning
    assert reason in warning
    assert "the model's own logits are used" in warning
    assert loaded.head.logits_mode == positions
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(3)))
    ours, own = head_and_model_logps(loaded.model, loaded.layout, loaded.head, batch)
    torch.testing.assert_close(ours, own, atol=2e-5, rtol=1e-5)
    # Gradients too: those of the model's own forward pass.
    gradients = []
    for model_logits in (False, True):
        loaded.model.zero_grad()
        if model_logits:
            logits = loaded.layout.model_logits(loaded.model, batch)[:, : batch["labels"].shape[1]]
            every = torch.log_softmax(logits, -1).gather(2, batch["labels"].clamp(min=0)[..., None]).squeeze(2)
            total = every[batch["labels"] != -100].sum()
        else:
            total = loaded.layout.score(loaded.model, loaded.head, batch).token_logps.sum()
        total.backward()
        gradients.append({name: p.grad.clone() for name, p in loaded.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-3, rtol=1e-3)


def test_training_uses_the_models_own_logits(copy, alter, tmp_path):
    folder = copy("llama")
    (folder / CANARY_FILE).unlink()
    alter("llama", altered)
    arguments = {"use_cpu": True, "max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1}
    config = TrainConfig(loss="simpo", nll_smoothing=0.1, dtype="float32", args=arguments)
    train(str(folder), preference_texts(4), config, tmp_path / "out")
    logs = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    loaded = load_here(folder)
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(4)))
    chosen = head_and_model_logps(loaded.model, loaded.layout, loaded.head, batch)[1][:4].sum()
    tokens = (batch["labels"][:4] != -100).sum()
    assert logs[0]["nll_loss"] == pytest.approx(float(-chosen / tokens), rel=1e-4)
    assert load_here(tmp_path / "out").head.logits_mode == "real"


def test_wrapped_models_keep_their_logits_mode(load):
    from dataclasses import replace

    loaded = load("llama")
    believed = replace(loaded, head=replace(loaded.head, logits_mode="real"))
    again = believed.with_model(loaded.model)
    assert again.head.logits_mode == "real"
    assert again.head.model is loaded.model
    assert loaded.with_model(loaded.model).head.logits_mode == "none"


def test_a_config_that_names_a_transform_the_model_does_not_apply(copy, caplog):
    folder = copy("qwen2")
    edit_json(folder / "config.json", logit_scale=3.0)
    loaded = load_here(folder)
    assert loaded.head.logits_mode == "real"
    assert "differ from the model's own by" in caplog.text


@pytest.mark.parametrize(
    ("kind", "transform"),
    [
        ("gemma2", LogitTransform(softcap=2.0)),
        ("cohere", LogitTransform(scale=0.25)),
        ("granite", LogitTransform(scale=0.25)),
        ("llama", LogitTransform()),
    ],
)
def test_declared_logit_transforms_need_no_model_logits(load, kind, transform):
    loaded = load(kind)
    assert loaded.head.transform == transform
    assert loaded.head.logits_mode == "none"
    plain = Head(loaded.head.module)
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(2)))
    without, own = head_and_model_logps(loaded.model, loaded.layout, plain, batch)
    assert (float((without - own).abs().max()) > 0.01) == (transform != LogitTransform()), "the test shows nothing"


def test_log_probabilities_that_are_nan_are_refused(copy):
    folder = copy("mt5")
    edit_tensors(folder, lambda tensors: tensors["decoder.final_layer_norm.weight"].fill_(float("nan")))
    with pytest.raises(UserError, match="log-probabilities of the canary's text are NaN or infinite"):
        load_here(folder)
