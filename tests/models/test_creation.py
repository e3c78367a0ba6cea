import json

import pytest
import torch
from support.models import PAIRS, SIZES, TEXTS

from mtcpo.core.errors import UserError
from mtcpo.models.creation import END, PAD, UNKNOWN, CreateConfig, create_model, write_tokenizer
from mtcpo.models.loading import load_model


@pytest.mark.parametrize("architecture", ["mt5", "llama"])
def test_new_models_load_with_their_canary(model_folder, architecture):
    folder = model_folder(architecture)
    assert {"config.json", "model.safetensors", "tokenizer.json", "spiece.model", "canary.json"} <= {
        path.name for path in folder.iterdir()
    }
    loaded = load_model(str(folder))
    config = loaded.model.config
    assert config.hidden_size == SIZES["d_model"]
    assert config.vocab_size == len(loaded.tokenizer) <= SIZES["vocab_size"]
    assert not config.tie_word_embeddings
    assert (
        loaded.model.get_input_embeddings().weight.data_ptr() != loaded.model.get_output_embeddings().weight.data_ptr()
    )


@pytest.mark.parametrize("architecture", ["mt5", "llama"])
def test_first_loss_is_that_of_guessing(load, architecture):
    """Logits of a sensible size: -log p is near log V, not near a hundred."""
    loaded = load(architecture)
    from mtcpo.models.prompts import TextExample

    batch = loaded.layout.collate(loaded.layout.encode([TextExample(en, "en", "de", (de,)) for en, de in PAIRS[:8]]))
    with torch.no_grad():
        scored = loaded.layout.score(loaded.model, loaded.head, batch)
    mean = -scored.token_logps.sum() / (scored.labels != -100).sum()
    assert float(mean) == pytest.approx(torch.tensor(float(len(loaded.tokenizer))).log().item(), abs=0.8)


def test_same_seed_same_files_and_the_generator_is_left_alone(tmp_path):
    state = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        create_model(CreateConfig(seed=seed, **SIZES), TEXTS, tmp_path / name)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_tokenizer_decodes_to_the_same_text(model_folder, load):
    tokenizer = load("mt5").tokenizer
    for text in [*TEXTS[:40], "Fröschlein grüßt Mühle"]:
        ids = tokenizer(text)["input_ids"]
        assert ids[-1] == END
        assert UNKNOWN not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert UNKNOWN in tokenizer("漢字")["input_ids"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (PAD, END, UNKNOWN)
    # The same pieces as SentencePiece itself cuts.
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_folder("mt5") / "spiece.model"))
    assert [tokenizer(text)["input_ids"][:-1] for text in TEXTS[:40]] == [pieces.encode(text) for text in TEXTS[:40]]


def test_vocabulary_may_be_smaller_than_configured(tmp_path):
    assert write_tokenizer(TEXTS, 100_000, tmp_path) < 1000


def test_sizes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="d_model 30 is not a multiple of heads 4"):
        create_model(CreateConfig(d_model=30, heads=4), TEXTS, tmp_path)
    with pytest.raises(UserError, match="no vocabulary of 2000 pieces could be trained"):
        create_model(CreateConfig(), [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_config_file_is_untied_whatever_transformers_writes(model_folder):
    for kind in ("mt5", "llama"):
        assert json.loads((model_folder(kind) / "config.json").read_text())["tie_word_embeddings"] is False
