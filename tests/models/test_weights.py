"""What is wrong with weights, tables, tokenizers and configs is found, named, or put right."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import make_marian_separate
from support.models import preference_texts

from mtcpo.core.errors import UserError
from mtcpo.models.canary import CANARY_FILE, TEXTS, head_and_model_logps
from mtcpo.models.compat import classic_rope, running_major, written_major
from mtcpo.models.head.hooks import Head
from mtcpo.models.head.targets import LogitTransform
from mtcpo.models.loading import load_model, save_model
from mtcpo.models.prompts import TextExample
from mtcpo.training.config import TrainConfig
from mtcpo.training.train import train

MAJOR = running_major()


@pytest.fixture
def copy(model_folder, tmp_path):
    return lambda kind: Path(shutil.copytree(model_folder(kind), tmp_path / "folder"))


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def edit_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def text_of(source, *targets):
    """As canaries have it: no template."""
    return TextExample(source, "en", "de", targets, prompt=source)


def load_here(folder):
    return load_model(str(folder), "float32", device="cpu")


def parts(loaded):
    return loaded.model, loaded.layout, loaded.head


def logps_of(loaded):
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(4)))
    return head_and_model_logps(*parts(loaded), batch)[0]


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["madlad", "umt5", "mt5", "byt5"])
def test_a_lost_output_table_is_named(copy, kind):
    folder = copy(kind)
    edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"the weights do not fit the model: 1 missing \(lm_head\.weight"):
        load_here(folder)


def test_a_lost_bias_is_named(copy):
    folder = copy("marian")
    edit_tensors(folder, lambda tensors: tensors.pop("final_logits_bias"))
    with pytest.raises(UserError, match=r"1 missing \(final_logits_bias\)"):
        load_here(folder)


@pytest.mark.parametrize(("kind", "tensor"), [("t5", "lm_head.weight"), ("qwen2", "lm_head.weight"), ("madlad", None)])
def test_tied_tables_that_differ_are_named(copy, kind, tensor):
    """Version 4.57 takes one of the two and says nothing; version 5 keeps both and only warns."""
    folder = copy(kind)
    edit_json(folder / "config.json", tie_word_embeddings=True)
    if tensor:
        table = "shared.weight" if kind == "t5" else "model.embed_tokens.weight"
        edit_tensors(folder, lambda tensors: tensors.update({tensor: tensors[table] * 1.5}))
    with pytest.raises(UserError, match=r"tied weights differ: .* are not equal; set it to false") as caught:
        load_here(folder)
    assert "lm_head.weight" in str(caught.value)


def test_tied_tables_that_are_stored_twice_and_equal_are_tied(copy):
    folder = copy("t5")
    before = logps_of(load_here(folder))
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["shared.weight"].clone()}))
    torch.testing.assert_close(logps_of(load_here(folder)), before)


@pytest.mark.parametrize("kind", ["madlad", "umt5", "byt5", "mt5"])
def test_untied_models_stay_untied_and_unscaled(load, copy, kind, tmp_path):
    """Version 5 believes no T5 that says "untied"; it would scale UMT5's decoder, and save them all as tied."""
    loaded = load(kind)
    model = loaded.model
    assert not model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    stored = load_file(copy(kind) / "model.safetensors")
    assert torch.equal(model.lm_head.weight, stored["lm_head.weight"])
    # By hand: logits are the decoder's output times the table, and nothing else.
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(2)))
    inputs = {key: batch[key].repeat(2, 1) for key in ("input_ids", "attention_mask")}
    start = loaded.layout.decoder_input_ids(batch["labels"])
    with torch.no_grad():
        output = model(**inputs, decoder_input_ids=start, output_hidden_states=True)
    expected = output.decoder_hidden_states[-1] @ stored["lm_head.weight"].T
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=1e-4)
    for turn in ("one", "two"):
        (tmp_path / turn).mkdir()
        save_model(loaded, tmp_path / turn, ("en", "de"))
        assert json.loads((tmp_path / turn / "config.json").read_text())["tie_word_embeddings"] is False
        loaded = load_here(tmp_path / turn)


def by_hand(folder, scale):
    """The log-probabilities of a tied mT5 whose output table is the input table times `scale`."""
    edit_json(folder / "config.json", tie_word_embeddings=False, transformers_version="4.57.0")
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["shared.weight"] * scale}))
    return logps_of(load_here(folder))


@pytest.mark.parametrize("writer", ["4.30.1", "4.57.6", "5.0.0", "5.23.0"])
def test_a_tied_mt5_is_what_it_was_to_the_version_that_wrote_it(model_folder, tmp_path, writer):
    """Versions before 5 divide the decoder's output by sqrt(d_model), version 5 does not."""
    one, two = (Path(shutil.copytree(model_folder("mt5-tied"), tmp_path / name)) for name in ("one", "two"))
    edit_json(one / "config.json", transformers_version=writer, tie_word_embeddings=True)
    expected = by_hand(two, 32**-0.5 if writer < "5" else 1.0)
    loaded = load_here(one)
    torch.testing.assert_close(logps_of(loaded), expected, atol=1e-4, rtol=1e-4)
    (tmp_path / "saved").mkdir()
    save_model(loaded, tmp_path / "saved", ("en", "de"))
    torch.testing.assert_close(logps_of(load_here(tmp_path / "saved")), expected, atol=1e-4, rtol=1e-4)


def test_two_tables_of_an_mt5_that_version_5_calls_tied(copy):
    """Version 5 writes "tied" of every mT5, and both tables; 4.57 would merge them."""
    folder = copy("mt5")
    (folder / CANARY_FILE).unlink()
    before = logps_of(load_here(folder))
    edit_json(folder / "config.json", tie_word_embeddings=True, transformers_version="5.23.0")
    loaded = load_here(folder)
    torch.testing.assert_close(logps_of(loaded), before)
    assert not loaded.model.config.tie_word_embeddings


# --- adapters -------------------------------------------------------------------------------------------------------


def test_a_stray_adapter_is_pointed_out(copy):
    folder = copy("llama")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "elsewhere/base"}')
    with pytest.raises(UserError, match=r"adapter_config\.json lies beside the full weights model\.safetensors"):
        load_here(folder)


# --- configs --------------------------------------------------------------------------------------------------------


def test_rotary_settings_by_their_old_names():
    scaled = {"rope_type": "llama3", "factor": 8.0}
    assert classic_rope({"rope_parameters": {"rope_theta": 5e5, **scaled}}) == {
        "rope_theta": 5e5, "rope_scaling": scaled,
    }  # fmt: skip
    assert classic_rope({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}) == {"rope_theta": 5e5}
    by_layer = {"full_attention": {"rope_theta": 1e6, **scaled}, "sliding_attention": {"rope_theta": 1e4}}
    assert classic_rope({"rope_parameters": by_layer}) == {
        "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": scaled,
    }  # fmt: skip
    neox = {"rope_theta": 10.0, "partial_rotary_factor": 0.5, "rope_type": "default"}
    assert classic_rope({"model_type": "gpt_neox", "rope_parameters": neox}) == {
        "rope_theta": 10.0, "rotary_emb_base": 10.0, "partial_rotary_factor": 0.5, "rotary_pct": 0.5,
    }  # fmt: skip
    assert classic_rope({"rope_theta": 1.0}) == {}


@pytest.mark.parametrize("kind", ["llama3", "qwen2", "gemma3", "gpt_neox"])
def test_a_config_of_version_5_alone_is_understood(copy, kind):
    """As plain version 5 writes it: no rotary setting under a name that 4.57 knows."""
    folder = copy(kind)
    before = logps_of(load_here(folder))
    path = folder / "config.json"
    written = json.loads(path.read_text())
    base = written.get("rope_theta")
    if "rope_parameters" not in written:
        rope = {"rope_theta": base or written.get("rotary_emb_base"), "rope_type": "default"}
        rope |= written.get("rope_scaling") or {}
        if kind == "gpt_neox":
            rope["partial_rotary_factor"] = written["rotary_pct"]
        if kind == "gemma3":
            local = {"rope_theta": written["rope_local_base_freq"], "rope_type": "default"}
            rope = {"full_attention": rope, "sliding_attention": local}
        written["rope_parameters"] = rope
    old = ("rope_theta", "rope_scaling", "rope_local_base_freq", "rotary_pct", "rotary_emb_base")
    names = {name: value for name, value in written.items() if name not in (*old, "partial_rotary_factor")}
    path.write_text(json.dumps(names | {"transformers_version": "5.23.0"}))
    torch.testing.assert_close(logps_of(load_here(folder)), before)


@pytest.mark.parametrize(
    ("written", "major"), [({}, 4), ({"transformers_version": "5.0.0rc1"}, 5), ({"transformers_version": "main"}, 4)]
)
def test_version_that_wrote_a_config(written, major):
    assert written_major(written) == major


@pytest.mark.parametrize(("larger_target", "tied"), [(False, False), (True, True), (True, False)])
def test_marian_with_vocabularies_of_their_own(tmp_path, larger_target, tied):
    """Of one size both versions know them; of two sizes version 5 alone, and 4.57 would take the source's for both."""
    folder = tmp_path / "folder"
    folder.mkdir()
    make_marian_separate(folder, larger_target, tied)
    if larger_target and MAJOR < 5:
        sizes = r"different sizes \([0-9]+ and [0-9]+\)"
        with pytest.raises(UserError, match=rf"source and target vocabularies have {sizes}, .*; use transformers 5"):
            load_here(folder)
        return
    loaded = load_here(folder)
    (example,) = loaded.layout.encode([text_of("The bear hears.", "Das Bärchen hört.")])
    (target,) = example.targets
    assert loaded.tokenizer.decode(target, skip_special_tokens=True) == "Das Bärchen hört."
    assert target != loaded.layout.encode([text_of("Das Bärchen hört.", "")])[0].source
    batch = loaded.layout.collate([example])
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        own = loaded.model(**inputs).loss * len(target)
    ours = head_and_model_logps(*parts(loaded), batch)[0].sum()
    torch.testing.assert_close(ours, -own, atol=1e-4, rtol=1e-5)
    (tmp_path / "saved").mkdir()
    save_model(loaded, tmp_path / "saved", ("en", "de"))
    torch.testing.assert_close(head_and_model_logps(*parts(load_here(tmp_path / "saved")), batch)[0].sum(), ours)


def test_a_target_vocabulary_larger_than_its_table(copy):
    folder = copy("marian-separate")
    vocabulary = json.loads((folder / "target_vocab.json").read_text(encoding="utf-8"))
    edit_json(folder / "target_vocab.json", more=len(vocabulary))
    with pytest.raises(UserError, match=r"the model's decoder's embedding only [0-9]+ rows; this tokenizer belongs to"):
        load_here(folder)


# --- tokenizers -----------------------------------------------------------------------------------------------------


def test_a_tokenizer_without_files_is_one(load, tmp_path):
    save_model(load("byt5"), tmp_path, ("en", "de"))
    assert load_here(tmp_path).tokenizer("ß")["input_ids"] == [0xC3 + 3, 0x9F + 3, 1]
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="a model without tokenizer"):
        load_here(tmp_path)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("kind", ["mbart-cc25", "mbart-50", "nllb", "t5", "umt5"])
def test_signs_are_normalized_as_the_vocabulary_was(load, kind, saved, tmp_path):
    """SentencePiece normalizes by its own table; transformers 5 forgets it for mBART."""
    loaded = load(kind)
    if saved:
        save_model(loaded, tmp_path, ("en", "de"))
        loaded = load_here(tmp_path)
    (plain,) = loaded.layout.encode([text_of("The fine bear sees 12 doors.")])
    (signs,) = loaded.layout.encode([text_of("The ﬁne  ｂear sees １２ doors.")])
    assert signs.source == plain.source
    if saved:
        return
    texts = [text for text, _ in TEXTS[:2]]
    proto = load_proto(Path(loaded.name))
    special = set(loaded.tokenizer.get_added_vocab()) | {"translate", "</s>"}
    for text in texts:
        ids = loaded.tokenizer(text)["input_ids"]
        pieces = [token for token in loaded.tokenizer.convert_ids_to_tokens(ids) if token not in special - {"<unk>"}]
        own = [
            piece if proto.piece_to_id(piece) != proto.unk_id() else "<unk>"
            for piece in proto.encode(text, out_type=str)
        ]
        assert pieces == own


def load_proto(folder):
    import sentencepiece

    (file,) = folder.glob("*.model")
    return sentencepiece.SentencePieceProcessor(model_file=str(file))


# --- canary ---------------------------------------------------------------------------------------------------------


def test_a_lost_normalizer_is_caught(load, tmp_path):
    """The third text of the canary has signs that only a normalizer knows."""
    save_model(load("umt5"), tmp_path, ("en", "de"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"normalizer": None}), encoding="utf-8")
    with pytest.raises(UserError, match=r"canary\.json .*: the tokenizer no longer produces the token ids"):
        load_here(tmp_path)


def test_a_canary_of_version_0_1_has_fewer_texts(load, tmp_path):
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
    """By position: a bias of its own for every place in the row, which fails where places are missing."""
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
def test_a_model_that_alters_its_logits_is_believed(copy, alter, kind, function, positions, caplog):
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


def test_training_goes_by_the_models_own_logits(copy, alter, tmp_path):
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


def test_wrapped_models_keep_the_choice_of_logits(load):
    from dataclasses import replace

    loaded = load("llama")
    believed = replace(loaded, head=replace(loaded.head, logits_mode="real"))
    again = believed.with_model(loaded.model)
    assert again.head.logits_mode == "real"
    assert again.head.model is loaded.model
    assert loaded.with_model(loaded.model).head.logits_mode == "none"


def test_a_config_that_announces_what_the_model_does_not_do(copy, caplog):
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
def test_known_alterations_are_the_heads_own(load, kind, transform):
    loaded = load(kind)
    assert loaded.head.transform == transform
    assert loaded.head.logits_mode == "none"
    plain = Head(loaded.head.module)
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(2)))
    without, own = head_and_model_logps(loaded.model, loaded.layout, plain, batch)
    assert (float((without - own).abs().max()) > 0.01) == (transform != LogitTransform()), "the test shows nothing"


def test_numbers_that_are_none_are_told(copy):
    folder = copy("mt5")
    edit_tensors(folder, lambda tensors: tensors["decoder.final_layer_norm.weight"].fill_(float("nan")))
    with pytest.raises(UserError, match="log-probabilities of the canary's text are NaN or infinite"):
        load_here(folder)
