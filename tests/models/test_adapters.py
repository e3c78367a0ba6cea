import functools
import json
import shutil
import sys

import pytest
import torch
from support.models import KINDS, SIZES, TEXTS, preference_texts
from support.training import SMALL_LORA, adapter_weights, interrupt_at, model_weights, train_config

from mtcpo.core.errors import UserError
from mtcpo.models.adapters import add_adapters
from mtcpo.models.config import LoraConfig
from mtcpo.models.creation import CreateConfig, create_model
from mtcpo.models.loading import load_model
from mtcpo.training.prepare import prepare_model
from mtcpo.training.train import train

ROUNDS = {"num_train_epochs": 2, "learning_rate": 1e-2}


def lora_config(lora=SMALL_LORA, **args):
    return train_config(lora=lora, args=ROUNDS | args)


def logps(loaded, texts):
    batch = loaded.layout.collate(loaded.layout.encode(texts))
    loaded.model.eval()
    with torch.no_grad():
        return loaded.layout.score(loaded.model, loaded.head, batch).token_logps


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory):
    """A function from a kind to (its folder, the adapters that were trained on it), made at the first call."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("trained")
            base = shutil.copytree(model_folder(kind), folder / "base")
            train(str(base), preference_texts(8), lora_config(), folder / "model")
            made[kind] = (base, folder / "model")
        return made[kind]

    return of


def test_pairs_share_a_row_under_adapters_too(load):
    loaded = load("llama")
    texts = preference_texts(4)
    before = logps(loaded, texts)
    wrapped = prepare_model(loaded, lora_config(), seed=0)
    assert wrapped.layout.packs
    assert "parts" in wrapped.layout.collate(wrapped.layout.encode(texts))
    torch.testing.assert_close(logps(wrapped, texts), before)  # new adapters change nothing


# --- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_adapters_are_a_directory_that_loads_with_its_base(trained, kind):
    import peft

    base, folder = trained(kind)
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "canary.json", "tokenizer.json", "README.md"} <= names
    assert not names & {"model.safetensors", "config.json", "checkpoints"}
    assert all(".lora_" in name for name in adapter_weights(folder))
    texts = preference_texts(6, start=40)
    ours = logps(load_model(str(folder), "float32", device="cpu"), texts)
    before = load_model(str(base), "float32", device="cpu")
    assert float((ours - logps(before, texts)).abs().max()) > 0.01
    # An independent reader of the same directory: peft itself, unmerged.
    found = json.loads((folder / "adapter_config.json").read_text())
    assert found["base_model_name_or_path"] == str(base)
    assert found["task_type"] == ("SEQ_2_SEQ_LM" if kind == "mt5" else "CAUSAL_LM")
    theirs = peft.PeftModel.from_pretrained(before.model, folder).eval()
    batch = before.layout.collate(before.layout.encode(texts))
    with torch.no_grad():
        logits = before.layout.model_logits(theirs, batch)
    labels = batch["labels"]
    own = torch.log_softmax(logits, -1).gather(2, labels.clamp(min=0)[..., None]).squeeze(2)[labels != -100]
    torch.testing.assert_close(ours[labels != -100], own, atol=1e-4, rtol=1e-4)


# The new Llama's frozen head is small (0.02) and its input normalised: adapters can do little there.
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "learning_rate", "gain"), [("mt5", 1e-2, 0.5), ("llama", 3e-2, 0.05)])
def test_merge_writes_a_whole_model_with_the_adapters_beside_it(model_folder, kind, learning_rate, gain, tmp_path):
    settings = train_config(
        lora=LoraConfig(r=4, alpha=8, merge=True), cpo_alpha=0,
        args={"num_train_epochs": 8, "learning_rate": learning_rate},
    )  # fmt: skip
    train(str(model_folder(kind)), preference_texts(8), settings, tmp_path / "out")
    before, after = model_weights(model_folder(kind)), model_weights(tmp_path / "out")
    assert before.keys() == after.keys(), "adapters were not merged"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("q_proj" in name or name.endswith("q.weight") for name in changed)
    assert not {name for name in changed if "lm_head" in name or "norm" in name or "shared" in name}
    logs = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    margins = [row["rewards/margins"] for row in logs if "loss" in row]
    assert margins[-1] > margins[0] + gain
    # The merged model has no file that makes it look like adapters; those are in a folder of their own.
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    texts = preference_texts(6, start=40)
    whole, beside = (load_model(str(tmp_path / name), "float32", device="cpu") for name in ("out", "out/adapter"))
    torch.testing.assert_close(logps(whole, texts), logps(beside, texts), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_adapters_on_adapters(trained, tmp_path):
    """A directory of adapters is a model to start from: whole, or with further adapters on top of it."""
    base, first = trained("mt5")
    texts = preference_texts(6, start=40)
    train(str(first), preference_texts(8), lora_config(), tmp_path / "second")
    assert json.loads((tmp_path / "second" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        first
    )
    found = [
        logps(load_model(str(path), "float32", device="cpu"), texts) for path in (base, first, tmp_path / "second")
    ]
    assert all(float((a - b).abs().max()) > 0.01 for a, b in zip(found[1:], found[:-1], strict=True))
    train(str(first), preference_texts(8), train_config(args={"learning_rate": 0.0}), tmp_path / "full")
    full = logps(load_model(str(tmp_path / "full"), "float32", device="cpu"), texts)
    torch.testing.assert_close(full, found[1], atol=1e-5, rtol=1e-5)


# --- which layers ---------------------------------------------------------------------------------------------------


LAYERS = {
    "mt5": {"q", "k", "v", "o", "wi_0", "wi_1", "wo"},
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gemma2": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "mixtral": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    **{kind: {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"} for kind in ("marian", "m2m100", "nllb")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_names_layers_for_adapters(load, kind):
    loaded = load(kind)
    model = add_adapters(loaded.model, loaded.family, SMALL_LORA, "base")
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name for name in names)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == LAYERS[kind]


@pytest.mark.parametrize(
    ("modules", "message"),
    [(("no_such",), r"train\.lora: .*no_such"), (("q", "lm_head"), "lm_head cannot have an adapter")],
)
def test_layers_that_take_no_adapter_are_refused(model_folder, modules, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train(
            str(model_folder("mt5")), preference_texts(4), lora_config(LoraConfig(target_modules=modules)),
            tmp_path / "out",
        )  # fmt: skip


# --- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupted_adapter_training_resumes_with_the_same_dropout(model_folder, tmp_path, monkeypatch):
    arguments = (str(model_folder("llama")), preference_texts(12), lora_config(LoraConfig(r=4, dropout=0.2)))
    train(*arguments, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(*arguments, tmp_path / "parts")
    train(*arguments, tmp_path / "parts")
    whole, parts = adapter_weights(tmp_path / "whole"), adapter_weights(tmp_path / "parts")
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    train(*arguments[:2], lora_config(LoraConfig(r=4)), tmp_path / "without")
    without = adapter_weights(tmp_path / "without")
    assert not all(torch.equal(tensor, without[name]) for name, tensor in whole.items())


# --- what is missing ------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(trained, tmp_path):
    """A run directory with a base and its adapters, at another place than it was made."""
    base, folder = trained("llama")
    shutil.copytree(base, tmp_path / "run" / "base")
    shutil.copytree(folder, tmp_path / "run" / "model")
    path = tmp_path / "run" / "model" / "adapter_config.json"
    found = json.loads(path.read_text()) | {"base_model_name_or_path": "/no/such/place/base"}
    path.write_text(json.dumps(found))
    return tmp_path / "run"


def test_a_run_directory_may_be_moved(moved, trained):
    texts = preference_texts(4)
    there, here = (load_model(str(path), "float32", device="cpu") for path in (trained("llama")[1], moved / "model"))
    assert torch.equal(logps(there, texts), logps(here, texts))


def test_another_base_in_the_old_place_is_refused(moved, model_folder):
    shutil.rmtree(moved / "base")
    settings = train_config(args={"learning_rate": 1e-2})
    train(str(model_folder("llama")), preference_texts(8), settings, moved / "base")
    with pytest.raises(UserError, match=r"canary\.json .*log-probabilities differ by"):
        load_model(str(moved / "model"), "float32", device="cpu")


def test_a_missing_base_is_named(moved):
    shutil.rmtree(moved / "base")
    with pytest.raises(UserError, match=r"their base model /no/such/place/base does not exist; restore it, or set"):
        load_model(str(moved / "model"))


def test_a_base_on_the_hub_that_cannot_be_fetched_is_named(moved):
    path = moved / "model" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "nobody/no-such-model"}))
    with pytest.raises(UserError, match="model: adapters of nobody/no-such-model: model 'nobody/no-such-m"):
        load_model(str(moved / "model"))


def test_damaged_adapters_are_refused(moved):
    path = moved / "model" / "adapter_config.json"
    text = path.read_text()
    for bad in ("{", "{}", '{"base_model_name_or_path": null}'):
        path.write_text(bad)
        with pytest.raises(UserError, match=r"adapter_config\.json: no base_model_name_or_path in it"):
            load_model(str(moved / "model"))
    path.write_text(json.dumps(json.loads(text) | {"target_modules": ["q_proj"]}))
    with pytest.raises(UserError, match=r"the adapters do not fit their base: [0-9]+ unexpected"):
        load_model(str(moved / "model"))
    path.write_text(json.dumps(json.loads(text) | {"r": 8}))
    with pytest.raises(UserError, match="the adapters do not fit their base"):
        load_model(str(moved / "model"))


def test_without_peft_the_message_names_the_package(moved, model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # what an import of a missing package finds
    for attempt in (
        lambda: load_model(str(moved / "model")),
        lambda: train(str(model_folder("mt5")), preference_texts(4), lora_config(), tmp_path / "out"),
    ):
        with pytest.raises(UserError, match=r"needs the package peft; install it with: pip install 'mtcpo\[lora\]'"):
            attempt()


def test_without_bitsandbytes_the_message_names_the_package(model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what an import of a missing package finds
    settings = lora_config(LoraConfig(quantization="4bit"))
    with pytest.raises(UserError, match=r"quantization = '4bit' needs the package bitsandbytes, .*'mtcpo\[qlora\]'"):
        train(str(model_folder("llama")), preference_texts(4), settings, tmp_path / "out")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A function from a kind to a model wide enough for a block of 64 weights to share a scale."""
    pytest.importorskip("bitsandbytes")

    @functools.cache
    def of(kind):
        folder = tmp_path_factory.mktemp("wide")
        create_model(CreateConfig(architecture=kind, **(SIZES | {"d_model": 64, "d_ff": 128})), TEXTS, folder)
        return folder

    return of


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_gradients_through_a_quantized_base(wide, kind, bits):
    """Of adapters at every depth they are those of the same weights in bfloat16, whatever was evaluated before."""
    found = []
    for whole in (False, True):
        loaded = load_model(str(wide(kind)), quantization=bits, device="cpu")
        loaded = loaded.with_model(loaded.model.dequantize()) if whole else loaded
        torch.manual_seed(0)
        model = add_adapters(loaded.model, loaded.family, LoraConfig(r=4, quantization=bits), "base")
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        for name, parameter in trained.items():
            if "lora_B" in name:  # zero at first, and then nothing below it would have a gradient
                torch.nn.init.normal_(parameter, std=0.05)
        loaded = loaded.with_model(model)
        logps(loaded, preference_texts(2))
        batch = loaded.layout.collate(loaded.layout.encode(preference_texts(8)))
        scored = loaded.layout.score(model.train(), loaded.head, batch, lambda part: part.token_logps.sum())
        scored.loss.backward()
        found.append({name: parameter.grad.flatten() for name, parameter in trained.items()})
    quantized, plain = found
    likeness = {name: float(torch.cosine_similarity(quantized[name], plain[name], dim=0)) for name in plain}
    assert min(likeness.values()) > 0.99, likeness


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "layer"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_adapters_on_a_quantized_base(wide, kind, bits, layer, tmp_path):
    """Trained on 4 or 8 bits, they move the unquantized model the same way, and are merged into that one."""
    base = wide(kind)
    quantized = load_model(str(base), quantization=bits)
    assert any(type(module).__name__ == layer for module in quantized.model.modules())
    lora = LoraConfig(r=4, alpha=8, quantization=bits, merge=True)
    settings = lora_config(lora, gradient_checkpointing=True, num_train_epochs=4)
    train(str(base), preference_texts(8), settings, tmp_path / "out")
    logs = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in logs if "loss" in row]
    assert losses[-1] < losses[0]
    texts = preference_texts(8)
    before, merged, beside = (
        logps(load_model(str(path), "float32", device="cpu"), texts)
        for path in (base, tmp_path / "out", tmp_path / "out" / "adapter")
    )
    torch.testing.assert_close(merged, beside, atol=1e-5, rtol=1e-5)
    assert float(merged[:8].sum() - merged[8:].sum()) > float(before[:8].sum() - before[8:].sum())


@pytest.mark.slow
def test_optimizer_in_8_bits(wide, tmp_path):
    """Its state is kept in 8 bits, and the loss falls."""
    args = ROUNDS | {"optim": "adamw_bnb_8bit", "learning_rate": 1e-3, "save_strategy": "epoch"}
    train(str(wide("mt5")), preference_texts(8), train_config(args=args), tmp_path / "out")
    (newest,) = (tmp_path / "out" / "checkpoints").iterdir()
    state = torch.load(newest / "optimizer.pt", weights_only=True)["state"]
    assert "dtype=torch.uint8" in repr(state)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]


def test_adapters_are_refused_as_a_base_for_quantization(moved):
    with pytest.raises(UserError, match=r"holds adapters, .*train with train\.lora\.merge = true first"):
        load_model(str(moved / "model"), quantization="4bit")


# --- gradient checkpointing -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mt5", "llama", "nllb"])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, dropout=0.1)])
def test_gradient_checkpointing_changes_no_weight(model_folder, kind, lora, tmp_path):
    """Layers are run again in the backward pass, below our hooks on encoder and head; dropout repeats itself."""
    read = model_weights if lora is None else adapter_weights
    results = []
    for checkpointing in (False, True):
        settings = train_config(lora=lora, dropout=0.1, args={"max_steps": 3, "gradient_checkpointing": checkpointing})
        out = tmp_path / str(checkpointing)
        train(str(model_folder(kind)), preference_texts(12), settings, out)
        results.append(read(out))
    plain, again = results
    start = model_weights(model_folder(kind)) if lora is None else {}
    assert plain.keys() == again.keys()
    assert any(name not in start or not torch.equal(start[name], tensor) for name, tensor in plain.items())
    for name, tensor in plain.items():
        torch.testing.assert_close(again[name], tensor, atol=1e-6, rtol=1e-5, msg=name)
