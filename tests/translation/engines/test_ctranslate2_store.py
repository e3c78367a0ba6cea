"""The cache of converted models: found again, made again, and refused if the model in it is wrong."""

import logging
import os
import shutil

import datasets
import pytest
import torch
from support.ctranslate2 import ct2_engine, texts_of
from support.translation import english_segments, quick_search

from mtcpo.core.files import read_json
from mtcpo.models.loading import load_model
from mtcpo.translation.engines import ctranslate2_engine, ctranslate2_store
from mtcpo.translation.engines.base import EngineRefused
from mtcpo.translation.engines.ctranslate2_store import RECORD, write_converted

pytestmark = pytest.mark.slow


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of converted models, empty."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "mtcpo" / "ctranslate2"


@pytest.fixture
def model(model_folder, tmp_path):
    """The folder of a model whose outputs depend on their sources."""
    return str(shutil.copytree(model_folder("t5"), tmp_path / "model"))


@pytest.fixture
def loads(monkeypatch):
    """A list to which each loading of a model with its weights is appended."""
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return load_model(*arguments)

    monkeypatch.setattr(ctranslate2_engine, "load_model", counted)
    return calls


def entries(cache):
    return sorted(record.parent for record in cache.glob(f"*/{RECORD}"))


def test_a_second_engine_neither_converts_nor_proves_nor_loads_the_weights(cache, model, loads):
    segments, greedy = english_segments(32), quick_search(num_beams=1)
    first = ct2_engine(model, segments)
    assert len(loads) == 1
    second = ct2_engine(model, segments)
    assert second.translate(segments, greedy) == first.translate(segments, greedy)
    assert second.proof == first.proof
    assert len(loads) == 1
    assert len(entries(cache)) == 1
    # Another language pair is proved anew.
    french = english_segments(3, tgt_lang="fr")
    second.translate(french, greedy)
    assert len(loads) == 2
    assert second.proof.count("greedy") == 2


def test_a_proof_of_few_sources_is_not_kept(cache, model, loads):
    ct2_engine(model, english_segments(3))
    assert read_json(entries(cache)[0] / RECORD)["proofs"] == {}
    ct2_engine(model, english_segments(32))
    assert list(read_json(entries(cache)[0] / RECORD)["proofs"]) == ["en-de"]


@pytest.mark.parametrize("damage", ["truncated", "without record", "record damaged"])
def test_a_damaged_model_is_converted_again(cache, model, damage, caplog):
    segments, greedy = english_segments(4), quick_search(num_beams=1)
    expected = texts_of(ct2_engine(model).translate(segments, greedy))
    assert any(text for (text,) in expected)
    (entry,) = entries(cache)
    if damage == "truncated":
        os.truncate(entry / "model.bin", 1000)
    elif damage == "without record":
        (entry / RECORD).unlink()
    else:
        (entry / RECORD).write_text('{"rules": 1', encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert texts_of(ct2_engine(model).translate(segments, greedy)) == expected
    assert "damaged" in caplog.text
    assert "converting it again" in caplog.text


def test_another_version_of_the_conversion_or_of_a_package_makes_another_model(cache, model, monkeypatch):
    ct2_engine(model)
    monkeypatch.setattr(ctranslate2_store, "CONVERSION", -1)
    ct2_engine(model)
    version = ctranslate2_store.metadata.version
    monkeypatch.setattr(ctranslate2_store.metadata, "version", lambda package: version(package) + ".post1")
    ct2_engine(model)
    ct2_engine(model, dtype="int8")
    assert len(entries(cache)) == 4


def test_a_model_trained_further_in_its_folder_is_converted_again(cache, model):
    """Without a canary, its files have the same names and sizes."""
    segments, greedy = english_segments(4), quick_search(num_beams=1)
    before = texts_of(ct2_engine(model).translate(segments, greedy))
    loaded = load_model(model, "float32", device="cpu")
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.15)
    loaded.model.save_pretrained(model)
    assert texts_of(ct2_engine(model).translate(segments, greedy)) != before
    assert len(entries(cache)) == 2


def test_a_converted_model_with_other_weights_is_refused_with_examples(cache, model):
    ct2_engine(model)
    (entry,) = entries(cache)
    broken = load_model(model, "float32", device="cpu")
    with torch.no_grad():
        weight = broken.model.get_output_embeddings().weight
        weight.copy_(weight.roll(1, 0))
    write_converted(broken, entry, "float32")
    with pytest.raises(
        EngineRefused, match=r"only \d+ of 32 greedy outputs of transformers: .* instead of .*; "
    ) as info:
        ct2_engine(model, english_segments(32))
    assert "\n" not in str(info.value)
    with pytest.raises(EngineRefused):  # without a sample, before the first translations
        ct2_engine(model).translate(english_segments(32), quick_search())


def test_a_model_in_memory_leaves_nothing(cache, load):
    engine = ct2_engine(load("m2m100"), english_segments(2))
    folder = engine._converted.folder
    assert folder.exists()
    del engine
    assert not folder.exists()
    assert not cache.exists()


def test_entries_that_were_not_used_for_long_are_removed(cache, model):
    ct2_engine(model)
    (old,) = entries(cache)
    os.utime(old / RECORD, (1, 1))
    ct2_engine(model, dtype="int8")
    (new,) = entries(cache)
    assert new != old
