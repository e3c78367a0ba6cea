"""Weights that are missing, misshapen or left over are named; tied and separate embeddings stay what they were."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.model_copies import edit_json, edit_tensors, load_here, logps_of
from support.models import preference_texts

from mtcpo.core.errors import UserError
from mtcpo.models.canary import CANARY_FILE
from mtcpo.models.compat import running_major
from mtcpo.models.loading import save_model

MAJOR = running_major()


@pytest.mark.parametrize("kind", ["madlad", "umt5", "mt5", "byt5"])
def test_a_missing_lm_head_is_named(copy, kind):
    folder = copy(kind)
    edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"the weights do not fit the model: 1 missing \(lm_head\.weight"):
        load_here(folder)


def test_a_missing_bias_is_named(copy):
    folder = copy("marian")
    edit_tensors(folder, lambda tensors: tensors.pop("final_logits_bias"))
    with pytest.raises(UserError, match=r"1 missing \(final_logits_bias\)"):
        load_here(folder)


@pytest.mark.parametrize(("kind", "tensor"), [("t5", "lm_head.weight"), ("qwen2", "lm_head.weight"), ("madlad", None)])
def test_tied_weights_that_differ_are_named(copy, kind, tensor):
    """Version 4.57 silently takes one of the two; version 5 keeps both and only warns."""
    folder = copy(kind)
    edit_json(folder / "config.json", tie_word_embeddings=True)
    if tensor:
        embeddings = "shared.weight" if kind == "t5" else "model.embed_tokens.weight"
        edit_tensors(folder, lambda tensors: tensors.update({tensor: tensors[embeddings] * 1.5}))
    with pytest.raises(UserError, match=r"tied weights differ: .* are not equal; set it to false") as caught:
        load_here(folder)
    assert "lm_head.weight" in str(caught.value)


def test_equal_weights_stored_twice_stay_tied(copy):
    folder = copy("t5")
    before = logps_of(load_here(folder))
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["shared.weight"].clone()}))
    torch.testing.assert_close(logps_of(load_here(folder)), before)


@pytest.mark.parametrize("kind", ["madlad", "umt5", "byt5", "mt5"])
def test_untied_models_stay_untied_and_unscaled(load, copy, kind, tmp_path):
    """Version 5 ignores "untied" in a T5's config; it would scale UMT5's decoder, and save them all as tied."""
    loaded = load(kind)
    model = loaded.model
    assert not model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    stored = load_file(copy(kind) / "model.safetensors")
    assert torch.equal(model.lm_head.weight, stored["lm_head.weight"])
    # By hand: logits are the decoder's output times the embeddings, and nothing else.
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
    """The log-probabilities of a tied mT5 whose lm_head is the embeddings times `scale`."""
    edit_json(folder / "config.json", tie_word_embeddings=False, transformers_version="4.57.0")
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["shared.weight"] * scale}))
    return logps_of(load_here(folder))


@pytest.mark.parametrize("writer", ["4.30.1", "4.57.6", "5.0.0", "5.23.0"])
def test_a_tied_mt5_keeps_the_log_probabilities_of_the_version_that_wrote_it(model_folder, tmp_path, writer):
    """Versions before 5 divide the decoder's output by sqrt(d_model), version 5 does not."""
    one, two = (Path(shutil.copytree(model_folder("mt5-tied"), tmp_path / name)) for name in ("one", "two"))
    edit_json(one / "config.json", transformers_version=writer, tie_word_embeddings=True)
    expected = by_hand(two, 32**-0.5 if writer < "5" else 1.0)
    loaded = load_here(one)
    torch.testing.assert_close(logps_of(loaded), expected, atol=1e-4, rtol=1e-4)
    (tmp_path / "saved").mkdir()
    save_model(loaded, tmp_path / "saved", ("en", "de"))
    torch.testing.assert_close(logps_of(load_here(tmp_path / "saved")), expected, atol=1e-4, rtol=1e-4)


def test_separate_weights_of_an_mt5_that_version_5_calls_tied_stay_separate(copy):
    """Version 5 writes "tied" for every mT5, and both tensors; 4.57 would merge them."""
    folder = copy("mt5")
    (folder / CANARY_FILE).unlink()
    before = logps_of(load_here(folder))
    edit_json(folder / "config.json", tie_word_embeddings=True, transformers_version="5.23.0")
    loaded = load_here(folder)
    torch.testing.assert_close(logps_of(loaded), before)
    assert not loaded.model.config.tie_word_embeddings


# --- adapters -------------------------------------------------------------------------------------------------------


def test_an_adapter_config_beside_full_weights_is_refused(copy):
    folder = copy("llama")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "elsewhere/base"}')
    with pytest.raises(UserError, match=r"adapter_config\.json lies beside the full weights model\.safetensors"):
        load_here(folder)
