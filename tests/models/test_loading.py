import json
import re
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from support.model_copies import edit_json, edit_tensors
from support.models import KINDS, preference_texts

from mtcpo.core.errors import UserError
from mtcpo.models.canary import CANARY_FILE, TEXTS, head_and_model_logps
from mtcpo.models.config import ModelOptions
from mtcpo.models.families import ALIASES
from mtcpo.models.head.targets import LogitTransform
from mtcpo.models.loading import load_model, save_model, transform_of
from mtcpo.models.names import model_fingerprint
from mtcpo.training.prepare import set_dropout


def truncate(path):
    path.write_bytes(path.read_bytes()[:900])


DAMAGES = {
    "no config": (lambda d: (d / "config.json").unlink(), r"no config\.json in it"),
    "broken config": (lambda d: (d / "config.json").write_text("{"), r"cannot be loaded \(.*config"),
    "no type": (lambda d: (d / "config.json").write_text("{}"), r"cannot be loaded \(.*model_type"),
    "unheard-of type": (lambda d: edit_json(d / "config.json", model_type="xyzzy"), "cannot be loaded .*xyzzy"),
    "undeclared type": (lambda d: edit_json(d / "config.json", model_type="bert"), "no family is declared .*'bert'"),
    "no tokenizer": (
        lambda d: [(d / name).unlink() for name in ("tokenizer.json", "spiece.model")],
        r"a model without a tokenizer; copy .* into it",
    ),
    "broken tokenizer": (lambda d: (d / "tokenizer.json").write_text("{"), "its tokenizer cannot be loaded"),
    "senseless tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), "its tokenizer cannot be loaded"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), r"cannot be loaded \(.*model\.safetensors"),
    "truncated weights": (lambda d: truncate(d / "model.safetensors"), "cannot be loaded .*header"),
    "lost tensor": (
        lambda d: edit_tensors(d, lambda tensors: tensors.pop("encoder.block.1.layer.0.SelfAttention.q.weight")),
        r"1 missing \(encoder\.block\.1\.layer\.0\.SelfAttention\.q\.weight\)",
    ),
    "tensor too many": (
        lambda d: edit_tensors(d, lambda tensors: tensors.update(another=torch.ones(2))),
        r"1 unexpected \(another\)",
    ),
    "other shape": (lambda d: edit_json(d / "config.json", d_ff=16), r"12 of another shape \(decoder\.block\.0\.layer"),
    "more layers": (lambda d: edit_json(d / "config.json", num_layers=3), r"9 missing \(encoder\.block\.2\.layer\.0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_directory_gets_a_message_of_one_line(copy, damage):
    folder = copy("mt5")
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value) or "no family" in str(caught.value)


def test_the_tokenizer_of_another_model_is_refused(copy, model_folder):
    folder = copy("llama")
    shutil.copy(model_folder("gpt2") / "tokenizer.json", folder)
    shutil.copy(model_folder("gpt2") / "tokenizer_config.json", folder)
    with pytest.raises(UserError, match=r"token ids up to 419, the model's embedding only \d+ rows; .*another model"):
        load_model(str(folder))


def test_half_precision_is_refused_if_it_overflows(model_folder):
    with pytest.raises(UserError, match="float16 overflows to NaN in the mt5 family; use bfloat16"):
        load_model(str(model_folder("mt5")), "float16")


@pytest.mark.parametrize("name", ["mt5", "google/mt5-small", "nosuchmodel"])
def test_without_network_and_cache_the_message_comes_at_once(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    hub_name = ALIASES.get(name, name)
    start = time.process_time()
    with pytest.raises(UserError, match=f"'{hub_name}' is neither a local directory .*pass --model DIR"):
        load_model(name)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("name", ["/no/such", "./no", "../no/such", "a/b/c"])
def test_no_such_directory(name):
    with pytest.raises(UserError, match=f"{re.escape(name)}: no such model directory"):
        load_model(name)
    with pytest.raises(UserError, match="nor a hub name"):
        load_model("no such name!")


def test_a_directory_called_like_an_alias_is_the_directory(model_folder, tmp_path, monkeypatch):
    shutil.copytree(model_folder("mt5"), tmp_path / "mt5")
    monkeypatch.chdir(tmp_path)
    assert load_model("mt5").family.name == "mt5"


# --- what a loaded model is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "transform"),
    [
        ({}, LogitTransform()),
        ({"logit_scale": 0.25}, LogitTransform(scale=0.25)),
        ({"logits_scaling": 8.0}, LogitTransform(scale=0.125)),
        ({"final_logit_softcapping": 30.0}, LogitTransform(softcap=30.0)),
    ],
)
def test_logit_transform_of_a_config(config, transform):
    assert transform_of(SimpleNamespace(**config)) == transform


def test_dropout_is_set_everywhere_and_layers_are_kept(load):
    model = load("m2m100").model
    assert model.get_encoder().layerdrop == model.get_decoder().layerdrop == 0.3
    rates = lambda: {  # noqa: E731
        getattr(module, name)
        for module in model.modules()
        for name in ("dropout", "layerdrop")
        if hasattr(module, name)
    }
    assert 0.1 in rates()
    set_dropout(model, 0.0)
    assert rates() == {0.0}
    set_dropout(model, 0.25)
    assert rates() == {0.0, 0.25}, "dropping whole layers is another thing than dropout"
    assert model.config.encoder_layerdrop == 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_training_mode_changes_nothing(load, kind):
    loaded = load(kind)
    set_dropout(loaded.model, 0.0)
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(4)))
    with torch.no_grad():
        quiet = loaded.layout.score(loaded.model.eval(), loaded.head, batch).token_logps
        training = loaded.layout.score(loaded.model.train(), loaded.head, batch).token_logps
    assert torch.equal(quiet, training)


def test_precision_of_the_weights(model_folder, load):
    assert load_model(str(model_folder("llama")), device="cpu").model.dtype == torch.float32
    loaded = load("llama", dtype="bfloat16")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.device.type == "cpu"
    assert load("gpt2", dtype="float16").model.dtype == torch.float16


# --- canary ---------------------------------------------------------------------------------------------------------


def logps_of(loaded):
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(4)))
    return head_and_model_logps(loaded.model, loaded.layout, loaded.head, batch)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_models_load_with_the_same_log_probabilities(load, kind, tmp_path):
    loaded = load(kind)
    save_model(loaded, tmp_path, ("en", "de"))
    again = load_model(str(tmp_path), "float32", device="cpu")
    torch.testing.assert_close(logps_of(again), logps_of(loaded))
    canary = json.loads((tmp_path / CANARY_FILE).read_text(encoding="utf-8"))
    assert (canary["src_lang"], canary["tgt_lang"]) == ("en", "de")
    assert len(canary["logps"]) == len(TEXTS) == 3
    assert not list(tmp_path.glob("*.bin")), "weights are safetensors"


@pytest.mark.parametrize("kind", ["mt5", "llama", "nllb"])
def test_changed_tensor_is_caught(load, kind, tmp_path):
    save_model(load(kind), tmp_path, ("en", "de"))
    load_model(str(tmp_path))

    def change(tensors):
        name = next(name for name in sorted(tensors) if "norm" in name and name.endswith("weight"))
        tensors[name] *= 1.5

    edit_tensors(tmp_path, change)
    with pytest.raises(UserError, match=r"canary\.json \(written by transformers .*\): .* differ by .* nats"):
        load_model(str(tmp_path), "float32")


@pytest.mark.parametrize("kind", ["mt5", "marian", "gpt2"])
def test_changed_tokenizer_is_caught(load, kind, tmp_path):
    save_model(load(kind), tmp_path, ("en", "de"))
    if kind == "marian":
        shutil.copy(tmp_path / "target.spm", tmp_path / "source.spm")
    else:
        path = tmp_path / "tokenizer.json"
        (tmp_path / "spiece.model").unlink(missing_ok=True)
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        if kind == "mt5":
            tokenizer["model"]["vocab"] = vocabulary[:3] + vocabulary[:2:-1]
        else:
            words = list(vocabulary)
            tokenizer["model"]["vocab"] = dict(zip(words[:3] + words[:2:-1], range(len(words)), strict=True))
        path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(UserError, match=r"canary\.json .*: the tokenizer no longer produces the token ids"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_the_canary_does_not_depend_on_the_prompt_template(load, kind, tmp_path):
    save_model(load(kind, options=ModelOptions(prompt="translate: {source} =")), tmp_path, ("en", "de"))
    assert load_model(str(tmp_path)).family.name
    assert load_model(str(tmp_path), options=ModelOptions(prompt="other {source}")).family.name


@pytest.mark.parametrize("languages", [("und", "und"), ("en", "tlh")])
def test_models_that_lack_the_canarys_languages_use_their_own(load, languages, tmp_path):
    save_model(load("nllb"), tmp_path, languages)
    assert load_model(str(tmp_path)).family.name == "nllb"


def test_half_precision_models_carry_a_float32_canary(load, tmp_path):
    save_model(load("llama", dtype="bfloat16"), tmp_path, ("en", "de"))
    assert load_model(str(tmp_path), "float32").model.dtype == torch.float32
    assert load_model(str(tmp_path), "bfloat16").model.dtype == torch.bfloat16


def test_untied_mt5_stays_untied(load, tmp_path):
    loaded = load("mt5")
    folder = tmp_path
    for turn in range(2):
        inputs, outputs = loaded.model.get_input_embeddings().weight, loaded.model.get_output_embeddings().weight
        assert inputs.data_ptr() != outputs.data_ptr()
        assert not loaded.model.config.tie_word_embeddings
        folder = tmp_path / str(turn)
        folder.mkdir()
        save_model(loaded, folder, ("en", "de"))
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
        tensors = load_file(folder / "model.safetensors")
        assert torch.equal(tensors["lm_head.weight"], outputs.detach())
        assert torch.equal(tensors["shared.weight"], inputs.detach())
        loaded = load_model(str(folder), "float32", device="cpu")


def test_the_fingerprint_changes_with_the_model(load, copy, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    loaded = load("mt5")
    for folder in (first, second):
        folder.mkdir()
        save_model(loaded, folder, ("en", "de"))
        with torch.no_grad():
            loaded.model.lm_head.weight.mul_(1.1)
    assert model_fingerprint(str(first)) == model_fingerprint(str(first)) != model_fingerprint(str(second))
    assert model_fingerprint("google/mt5-small") == "google/mt5-small"
    plain = copy("marian")
    before = model_fingerprint(str(plain))
    (plain / "vocab.json").write_text("{}")
    assert model_fingerprint(str(plain)) != before


@pytest.mark.parametrize("kind", KINDS)
def test_every_trainable_parameter_is_saved(load, kind, tmp_path):
    loaded = load(kind)
    trainable = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trainable:
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    save_model(loaded, tmp_path, ("en", "de"))
    again = load_model(str(tmp_path), "float32", device="cpu")  # which compares log-probabilities, too
    parameters = dict(again.model.named_parameters())
    assert [
        name for name, trained in loaded.model.named_parameters() if not torch.equal(trained, parameters[name])
    ] == []
