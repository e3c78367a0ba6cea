"""For every family: the labels are those that the model was trained with, and both majors give the same numbers.

What each proof measured is recorded as a property of its test; eval/bench/families.py makes the table of them.
"""

import functools
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from support.families import TINY_MODELS
from support.models import PAIRS, preference_texts
from support.paths import ROOT

from mtcpo.models.canary import CANARY_FILE, head_and_model_logps
from mtcpo.models.families import FAMILIES
from mtcpo.models.head.targets import IGNORE
from mtcpo.models.loading import load_model, save_model
from mtcpo.models.prompts import TextExample
from mtcpo.models.tokenizers import language_token
from mtcpo.training.config import TrainConfig
from mtcpo.training.losses import pair_logps
from mtcpo.training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")]


@pytest.fixture(scope="module")
def of(model_folder):
    """A function from a kind to its loaded model, made once: these tests change none."""
    return functools.cache(lambda kind: load_model(str(model_folder(kind)), "float32", device="cpu"))


def texts(count=4):
    return preference_texts(count)


def examples_of(loaded, count=4):
    return loaded.layout.encode(texts(count))


def own_forward(loaded, batch):
    """The model's own forward pass over the same rows, labels where transformers expects them; no hooks."""
    options = {"output_router_logits": False} if hasattr(loaded.model.config, "output_router_logits") else {}
    if loaded.model.config.is_encoder_decoder:
        rows = {key: batch[key].repeat(2, 1) for key in ("input_ids", "attention_mask")}
        return loaded.model(**rows, labels=batch["labels"], **options)
    labels = torch.full_like(batch["labels"], IGNORE)
    labels[:, 1:] = batch["labels"][:, :-1]
    return loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, **options)


def test_every_declared_family_has_a_tiny_model_here(of):
    families = {of(kind).family.name for kind in TINY_MODELS}
    assert families == {family.name for family in FAMILIES}
    types = {of(kind).model.config.model_type for kind in TINY_MODELS}
    assert types == {model_type for family in FAMILIES for model_type in family.model_types}


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_nll_is_the_models_own(of, kind, record_property):
    loaded = of(kind)
    assert loaded.family.name == TINY_MODELS[kind].family
    assert loaded.head.logits_mode == "none"
    examples = examples_of(loaded)
    layout = loaded.layout
    batch, rows = layout.collate(examples), layout.collate(examples)
    if loaded.family.layout == "decoder-only":
        # Ours packs pairs into one row where the model can; the model's own has a row for each target.
        rows = replace(layout, packs=False).collate(examples)
        has_sdpa = loaded.model.config._attn_implementation == "sdpa"
        assert has_sdpa or not TINY_MODELS[kind].has_sdpa
        assert ("parts" in batch) == (has_sdpa and TINY_MODELS[kind].packs)
    real, own_real = batch["labels"] != IGNORE, rows["labels"] != IGNORE
    with torch.no_grad():
        ours = layout.score(loaded.model, loaded.head, batch).token_logps
        own = own_forward(loaded, rows)
    own_logps = torch.log_softmax(own.logits[own_real].double(), -1).gather(1, batch["labels"][real, None]).squeeze(1)
    of_sum = abs(float(-ours.double().sum() - own.loss.double() * real.sum())) / int(real.sum())
    of_token = float((ours[real].double() - own_logps).abs().max())
    record_property("nll_parity", max(of_sum, of_token))
    assert max(of_sum, of_token) < 2e-5
    assert (ours[~real] == 0).all()
    assert float(own_logps.std()) > 0.05, "a model that says the same of every token proves nothing"


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_labels_decode_to_the_target(of, kind):
    loaded, expected = of(kind), TINY_MODELS[kind]
    tokenizer = loaded.tokenizer
    for text, example in zip(texts(), loaded.layout.encode(texts()), strict=True):
        for target, labels in zip(text.targets, example.targets, strict=True):
            tokens = tokenizer.convert_ids_to_tokens(list(labels))
            words = list(labels)
            if expected.target_code is not None:
                place, code = expected.target_code
                assert tokens[place] == code
                assert tokens.count(code) == 1
                del words[place]
            end = tokenizer.convert_tokens_to_ids(expected.target_end or tokenizer.eos_token)
            assert words[-1] == end
            assert words.count(end) == 1
            assert tokenizer.unk_token_id not in words[:-1] or tokenizer.unk_token_id == tokenizer.eos_token_id
            # Without special tokens what is left is the target's text alone; all of it.
            assert tokenizer.decode(words[:-1], skip_special_tokens=False).strip() == target
            assert tokenizer.decode(labels, skip_special_tokens=True).strip() == target
        source = tokenizer.convert_ids_to_tokens(list(example.source))
        if expected.source_start:
            assert source[0] == expected.source_start
        if expected.source_end:
            assert source[-2:] == list(expected.source_end)
        if loaded.family.layout == "encoder-decoder":
            assert source.count("</s>") == 1


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_prompts(of, kind):
    loaded = of(kind)
    (example,) = loaded.layout.encode([TextExample(PAIRS[3][0], "en", "de")])
    ids = list(example.source)
    if kind == "marian-separate":  # the tokenizer decodes targets, by their own vocabulary
        words = {i: word for word, i in loaded.tokenizer.get_vocab().items()}
        assert words[ids[-1]] == "</s>"
        assert loaded.tokenizer.spm_source.decode([words[i] for i in ids[:-1]]) == PAIRS[3][0]
        return
    tokens = loaded.tokenizer.convert_ids_to_tokens(ids)
    for special in ("</s>", "en_XX", "__en__", "eng_Latn"):
        ids = [i for i, token in zip(ids, tokens, strict=True) if token != special]
        tokens = [token for token in tokens if token != special]
    found = loaded.tokenizer.decode(ids).replace("<s>The", "<s> The").replace("<s>Tr", "<s> Tr")
    assert " ".join(found.split()) == " ".join(TINY_MODELS[kind].prompt.format(PAIRS[3][0]).split())


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_generation_starts_with_the_tokens_of_training(of, kind, record_property):
    """The logits of the first token that `generate` may choose are those of the first label that is not forced."""
    loaded = of(kind)
    examples = examples_of(loaded)
    batch = loaded.layout.collate(examples)
    labels = batch["labels"][: len(examples)]
    inputs, settings = loaded.layout.generation_batch(examples), loaded.layout.generation_settings("de")
    with torch.no_grad():
        trained = loaded.layout.model_logits(loaded.model, batch)[: len(examples)].float()
        generated = loaded.model.generate(
            **inputs, **settings, max_new_tokens=3, max_length=None, num_beams=1, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    forced = "forced_bos_token_id" in settings
    first = (labels != IGNORE).int().argmax(1)
    assert torch.equal(first + 1, torch.tensor([len(example.source) for example in examples])) or (first == 0).all()
    if loaded.model.config.is_encoder_decoder:
        starts = loaded.layout.decoder_input_ids(labels)[:, : 1 + forced]
        assert torch.equal(generated.sequences[:, : 1 + forced], starts)
        assert (starts[:, 0] != loaded.tokenizer.unk_token_id).all()
        code = TINY_MODELS[kind].target_code
        if code is not None:  # generation starts with the token of the target's language
            ids = [loaded.tokenizer.convert_tokens_to_ids(code[1])] * len(examples)
            assert starts[:, 1 if forced else 0].tolist() == ids
    else:
        prompt = inputs["input_ids"].shape[1]
        for row, example in zip(generated.sequences, examples, strict=True):
            assert tuple(row[prompt - len(example.source) : prompt].tolist()) == example.source
    steps = generated.logits[int(forced)].float()
    at = trained[torch.arange(len(examples)), first + forced]
    difference = float((torch.log_softmax(steps, -1) - torch.log_softmax(at, -1)).abs().max())
    record_property("generation_start", difference)
    assert difference < 1e-4


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_two_steps_move_chosen_above_rejected(model_folder, of, kind, tmp_path, record_property):
    loaded = of(kind)

    def margins(loaded, pairs):
        batch = loaded.layout.collate(loaded.layout.encode(pairs))
        with torch.no_grad():
            logps = pair_logps(loaded.layout.score(loaded.model.eval(), loaded.head, batch))
            return logps.chosen - logps.rejected

    pairs = preference_texts(16)
    # Each pair the way round that the model does not prefer, and of those the one that it minds least.
    pairs = [
        pair if margin < 0 else TextExample(pair.source, "en", "de", pair.targets[::-1])
        for pair, margin in zip(pairs, margins(loaded, pairs).tolist(), strict=True)
    ]
    all_before = margins(loaded, pairs)
    pair, before = [pairs[int(all_before.argmax())]], float(all_before.max())
    assert before < 0
    arguments = {"use_cpu": True, "max_steps": 2, "learning_rate": 1e-2}
    config = TrainConfig(loss="sigmoid", beta=0.5, cpo_alpha=0.0, dtype="float32", args=arguments)
    report = train(str(model_folder(kind)), pair, config, tmp_path / "out")
    assert report["steps"] == 2
    after = float(margins(load_model(str(tmp_path / "out"), "float32", device="cpu"), pair))
    record_property("training_step", f"{before:.3f} {after:.3f}")
    assert after > 0


# --- the other major version of transformers ------------------------------------------------------------------------

OTHER = os.environ.get("MTCPO_OTHER_PYTHON")
SAVE = """
import sys, pathlib
from mtcpo.models.loading import load_model, save_model
for kind in sys.argv[3:]:
    folder = pathlib.Path(sys.argv[2], kind)
    folder.mkdir(parents=True)
    save_model(load_model(str(pathlib.Path(sys.argv[1], kind)), "float32", device="cpu"), folder, ("en", "de"))
"""


def logps_of(loaded):
    batch = loaded.layout.collate(loaded.layout.encode(texts(8)))
    return head_and_model_logps(loaded.model, loaded.layout, loaded.head, batch)[0]


@pytest.fixture(scope="module")
def there_and_back(model_folder, tmp_path_factory):
    """All families saved here, and what the other version loaded and saved of them; both sides check canaries."""
    if OTHER is None:
        pytest.skip("set MTCPO_OTHER_PYTHON to a Python with the other major of transformers")
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    for kind in TINY_MODELS:
        (here / kind).mkdir()
        save_model(load_model(str(model_folder(kind)), "float32", device="cpu"), here / kind, ("en", "de"))
    root = ROOT
    done = subprocess.run(
        [OTHER, "-c", SAVE, here, there, *TINY_MODELS], cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return there


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_both_transformers_versions_agree_on_log_probabilities(of, kind, there_and_back, record_property):
    """Made and saved here, loaded and saved there, loaded here: the same tokens with the same probabilities."""
    folder = there_and_back / kind
    found, loaded = load_model(str(folder), "float32", device="cpu"), of(kind)
    assert found.layout.encode(texts(8)) == loaded.layout.encode(texts(8))
    canary = json.loads((folder / CANARY_FILE).read_text(encoding="utf-8"))
    assert canary["transformers"].split(".")[0] != sys.modules["transformers"].__version__.split(".")[0]
    difference = float((logps_of(found) - logps_of(loaded)).abs().max())
    record_property("canary", difference)
    assert difference < 1e-4
    if found.family.language_code:
        for tag in ("de", "fr") if kind != "marian-multilingual" else ("de", "uk"):
            vocabularies = [model.tokenizer.get_vocab() for model in (found, loaded)]
            assert len({language_token(found.family, tag, vocabulary) for vocabulary in vocabularies}) == 1
