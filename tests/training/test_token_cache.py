"""The token cache: entries are found by all that they depend on and by nothing else, and are complete or absent."""

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.models import preference_texts
from support.paths import ROOT
from support.timing import HANGS

from mtcpo.core.errors import UserError
from mtcpo.models.layouts.base import Example
from mtcpo.models.loading import load_model
from mtcpo.models.prompts import TextExample
from mtcpo.training import token_cache
from mtcpo.training.config import TrainConfig
from mtcpo.training.examples import encode_within_limits
from mtcpo.training.train import train

BAD = [TextExample("x", "en", "de", ("y", "y"), id="same"), TextExample("", "en", "de", ("y", "z"), id="empty")]
LIMITS = TrainConfig(max_source_tokens=100, max_target_tokens=60)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache for this test."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder / "mtcpo"


@pytest.fixture
def tokenizations(monkeypatch):
    """A list that grows by one whenever texts are tokenized and not found in the cache."""
    seen, write = [], token_cache._write

    def counted(*args):
        seen.append(args)
        write(*args)

    monkeypatch.setattr(token_cache, "_write", counted)
    return seen


def entries(cache):
    return sorted(path for path in cache.iterdir() if path.is_dir())


# --- found ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mt5", "nllb", "gpt2"])
def test_cached_examples_equal_the_tokenized_ones(load, kind, cache, tokenizations):
    texts = [*preference_texts(9), *BAD]
    first = encode_within_limits(load(kind).layout, iter(texts), LIMITS)
    made = load(kind).layout.encode(texts[:9])
    expected = [e for e in made if len(e.source) <= 100 and max(map(len, e.targets)) <= 60]
    assert list(first.examples) == expected
    assert len(expected) > 3
    again = encode_within_limits(load(kind).layout, iter(texts), LIMITS)
    assert len(tokenizations) == 1
    assert list(again.examples) == list(first.examples)
    for name in ("dropped", "dropped_ids", "languages", "sha256"):
        assert getattr(again, name) == getattr(first, name)
    assert again.dropped["chosen_equals_rejected"] == again.dropped["empty_source"] == 1
    assert again.dropped_ids["empty_source"] == ["empty"]


def test_languages_left_in_the_tokenizer_do_not_change_the_key(load, cache, tokenizations):
    """What was tokenized before must leave nothing in the tokenizer."""
    layout = load("nllb").layout
    texts = preference_texts(3)
    layout.encode([dataclasses.replace(texts[0], src_lang="de", tgt_lang="en")])
    encode_within_limits(layout, texts, LIMITS)
    encode_within_limits(load("nllb").layout, texts, LIMITS)
    assert len(tokenizations) == 1


def test_other_losses_and_settings_share_the_cache(load, cache, tokenizations):
    for changes in ({}, {"loss": "simpo"}, {"beta": 0.3}, {"batch_tokens": 99}, {"args": {"seed": 4}}):
        encode_within_limits(load("mt5").layout, preference_texts(3), LIMITS.model_copy(update=changes))
    assert len(tokenizations) == 1


# --- not found ------------------------------------------------------------------------------------------------------


def other_text(texts):
    return [*texts[:-1], dataclasses.replace(texts[-1], targets=(texts[-1].targets[0], "Ein anderer."))]


CHANGES = {
    "a text": lambda texts, config, layout: (other_text(texts), config, layout),
    "an id": lambda texts, config, layout: ([dataclasses.replace(texts[0], id="n"), *texts[1:]], config, layout),
    "a prompt": lambda texts, config, layout: ([dataclasses.replace(texts[0], prompt="p"), *texts[1:]], config, layout),
    "a language": lambda texts, config, layout: (
        [*texts[:-1], dataclasses.replace(texts[-1], tgt_lang="fr")], config, layout
    ),
    "the order": lambda texts, config, layout: (texts[::-1], config, layout),
    "one less": lambda texts, config, layout: (texts[:-1], config, layout),
    "source limit": lambda texts, config, layout: (texts, TrainConfig(max_source_tokens=99), layout),
    "target limit": lambda texts, config, layout: (texts, TrainConfig(max_target_tokens=99), layout),
    "sft": lambda texts, config, layout: (texts, TrainConfig(loss="sft"), layout),
    "template": lambda texts, config, layout: (
        texts, config, dataclasses.replace(layout, prompt="{source} in {tgt_code}")
    ),
    "the model's limit": lambda texts, config, layout: (texts, config, dataclasses.replace(layout, max_positions=63)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_texts_or_settings_tokenizes_again(load, change, cache, tokenizations):
    layout, texts = load("mt5").layout, preference_texts(3)
    encode_within_limits(layout, texts, TrainConfig())
    encode_within_limits(layout, texts, TrainConfig())
    assert len(tokenizations) == 1
    texts, config, layout = change(texts, TrainConfig(), layout)
    found = encode_within_limits(layout, texts, config)
    assert len(tokenizations) == 2
    kept = [text if config.loss != "sft" else dataclasses.replace(text, targets=text.targets[:1]) for text in texts]
    assert list(found.examples) == layout.encode(kept)


@pytest.mark.parametrize("kind", ["mt5", "marian", "gpt2"])
def test_another_tokenizer_tokenizes_again(load, kind, cache, tokenizations):
    """With a token added in memory alone, and with another chat template."""
    layout, texts = load(kind).layout, preference_texts(3)
    before = encode_within_limits(layout, texts, LIMITS)
    layout.tokenizer.add_tokens([texts[0].targets[0].split()[1][:4]])
    after = encode_within_limits(layout, texts, LIMITS)
    assert len(tokenizations) == 2
    if kind != "marian":  # whose pieces come before its added tokens
        assert list(after.examples) != list(before.examples)
    if kind == "gpt2":
        layout.tokenizer.chat_template = "!" + layout.tokenizer.chat_template
        changed = encode_within_limits(layout, texts, LIMITS)
        assert len(tokenizations) == 3
        assert len(changed.examples[0].source) > len(after.examples[0].source)


def test_another_version_tokenizes_again(load, cache, tokenizations, monkeypatch):
    for name in ("_our_code", "_versions"):
        encode_within_limits(load("mt5").layout, preference_texts(3), LIMITS)
        monkeypatch.setattr(token_cache, name, lambda: "other")
    encode_within_limits(load("mt5").layout, preference_texts(3), LIMITS)
    assert len(tokenizations) == 3


@pytest.mark.parametrize("module", ["models/layouts/decoder_only.py", "models/prompts.py", "data/languages.py"])
def test_a_change_in_any_package_changes_the_key(module, tmp_path, monkeypatch):
    """What decides the tokens of a text lies in other packages than the cache itself."""
    copy = tmp_path / "mtcpo"
    shutil.copytree(token_cache.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(token_cache, "PACKAGE", copy)
    before = token_cache._our_code.__wrapped__()
    assert token_cache._our_code.__wrapped__() == before
    with (copy / module).open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    assert token_cache._our_code.__wrapped__() != before


# --- damaged, interrupted, full -------------------------------------------------------------------------------------


def damage_ids(folder):
    path = folder / token_cache.IDS
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def damage_notes(folder):
    path = folder / token_cache.NOTES
    path.write_text(path.read_text(encoding="utf-8").replace('"same"', '"came"'), encoding="utf-8")


DAMAGES = {
    "a bit": damage_ids,
    "truncated": lambda folder: os.truncate(folder / token_cache.ENDS, 8),
    "a file gone": lambda folder: (folder / token_cache.ENDS).unlink(),
    "no notes": lambda folder: (folder / token_cache.NOTES).unlink(),
    "notes changed": damage_notes,
    "notes truncated": lambda folder: os.truncate(folder / token_cache.NOTES, 30),
    "notes of something else": lambda folder: (folder / token_cache.NOTES).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_data_is_rebuilt_with_a_message(load, damage, cache, tokenizations, caplog):
    layout, texts = load("mt5").layout, [*preference_texts(3), *BAD]
    first = encode_within_limits(layout, texts, LIMITS)
    expected = list(first.examples)
    (entry,) = entries(cache)
    damage(entry / "examples")
    caplog.clear()
    again = encode_within_limits(layout, texts, LIMITS)
    assert (list(again.examples), again.dropped, again.dropped_ids) == (expected, first.dropped, first.dropped_ids)
    assert len(tokenizations) == 2
    assert caplog.text.count("the tokenized data in it is damaged (") == 1
    encode_within_limits(layout, texts, LIMITS)
    assert len(tokenizations) == 2


def test_an_error_in_the_texts_leaves_nothing_in_the_cache(load, cache, tokenizations):
    layout = load("nllb").layout
    klingon = dataclasses.replace(preference_texts(1)[0], id="set:17", tgt_lang="tlh")
    for _ in range(2):
        with pytest.raises(UserError, match=r"^set:17: the tokenizer has no token for language 'tlh'"):
            encode_within_limits(layout, [*preference_texts(3), klingon], LIMITS)
    assert len(tokenizations) == 2
    assert not [path for entry in entries(cache) for path in entry.iterdir() if path.name != "lock"]


TOKENIZE_SLOWLY = """
import sys, time
from support.models import preference_texts
from mtcpo.models.loading import load_model
from mtcpo.training import examples
from mtcpo.training.config import TrainConfig
layout = load_model(sys.argv[1], "float32", device="cpu").layout
print("ready", flush=True)
reason_to_drop = examples._reason_to_drop
def slowly(*args):
    print("tokenizing", flush=True)
    time.sleep(float(sys.argv[2]))
    return reason_to_drop(*args)
examples._reason_to_drop = slowly
found = examples.encode_within_limits(layout, preference_texts(6), TrainConfig())
print("done", found.sha256, len(found.examples), flush=True)
"""


def start_tokenizing(model, cache, seconds):
    environment = os.environ | {
        "HF_DATASETS_CACHE": str(cache.parent), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }  # fmt: skip
    command = [sys.executable, "-c", TOKENIZE_SLOWLY, str(model), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_is_used(model_folder, load, cache, tokenizations):
    process = start_tokenizing(model_folder("mt5"), cache, HANGS)
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "tokenizing\n"]
    (entry,) = entries(cache)
    assert sorted(path.name for path in entry.iterdir()) == [".examples.partial", "lock"]
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=HANGS)
    found = encode_within_limits(load("mt5").layout, preference_texts(6), TrainConfig())
    assert len(tokenizations) == 1
    assert list(found.examples) == load("mt5").layout.encode(preference_texts(6))
    assert entries(cache) == [entry]
    assert sorted(path.name for path in entry.iterdir()) == ["examples", "lock"]


@pytest.mark.processes
def test_of_two_processes_one_tokenizes(model_folder, cache):
    processes = [start_tokenizing(model_folder("mt5"), cache, 0.2) for _ in range(2)]
    outputs = [process.communicate(timeout=HANGS)[0].splitlines() for process in processes]
    assert [output[0] for output in outputs] == ["ready", "ready"]
    assert outputs[0][-1] == outputs[1][-1]
    assert outputs[0][-1].startswith("done ")
    assert sorted(output.count("tokenizing") for output in outputs) == [0, 6]


def test_a_cache_that_cannot_be_written_is_one_line(load, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    with pytest.raises(
        UserError, match=r"tokenized data cannot be stored there \(not a directory\); set .*DATASETS_CACH"
    ):
        encode_within_limits(load("mt5").layout, preference_texts(2), LIMITS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line(load, cache, monkeypatch):
    cache.mkdir(parents=True)
    monkeypatch.setattr(token_cache, "TemporaryFile", lambda dir: open("/dev/full", "r+b", buffering=0))  # noqa: PTH123, SIM115
    with pytest.raises(UserError, match=r"no space left on its disk for tokenized data; set .*HF_DATASETS_CACHE"):
        encode_within_limits(load("mt5").layout, preference_texts(2), LIMITS)


def test_entries_unused_for_a_month_are_removed(load, cache):
    layout = load("mt5").layout
    for count in (1, 2):
        encode_within_limits(layout, preference_texts(count), LIMITS)
    long_ago = time.time() - 31 * 24 * 3600
    for entry in entries(cache):
        os.utime(entry / "examples" / token_cache.NOTES, (long_ago, long_ago))
    encode_within_limits(layout, preference_texts(1), LIMITS)  # used again, and nothing new
    assert len(entries(cache)) == 2
    encode_within_limits(layout, preference_texts(3), LIMITS)
    assert len(entries(cache)) == 2
    assert len(encode_within_limits(layout, preference_texts(1), LIMITS).examples) == 1


# --- what is kept ---------------------------------------------------------------------------------------------------

ids = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3).flatmap(lambda n: st.lists(st.builds(Example, ids, st.tuples(*[ids] * n)), max_size=6)))
def test_stored_examples_are_a_sequence_equal_to_the_original(tmp_path, examples):
    token_cache._write(tmp_path, examples, dict)
    stored, notes = token_cache._read(tmp_path)
    assert list(stored) == examples
    assert stored[1:4] == examples[1:4]
    assert stored[::-1] == examples[::-1]
    assert len(stored) == len(examples)
    if examples:
        assert stored[-1] == examples[-1]
    with pytest.raises(IndexError):
        stored[len(examples)]
    copy = pickle.loads(pickle.dumps(stored))
    assert list(copy) == examples
    assert notes["sha256"] == token_cache._sha256(tmp_path)


def test_pickled_examples_hold_only_their_folder(load, cache):
    few, many = (
        encode_within_limits(load("mt5").layout, preference_texts(1) * count, LIMITS).examples for count in (2, 2000)
    )
    assert len(many) == 2000
    assert abs(len(pickle.dumps(many)) - len(pickle.dumps(few))) < 10


text = st.text(st.characters(), max_size=8)  # lone surrogates among them
messages = st.lists(st.fixed_dictionaries({"role": text, "content": text}), min_size=1, max_size=2).map(tuple)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.builds(TextExample, text, text, text, st.lists(text).map(tuple), st.none() | text | messages, text)))
def test_spooled_texts_come_back_unchanged(cache, texts):
    with token_cache.spooled(iter(texts)) as spool:
        assert list(spool) == texts
        assert list(spool) == texts
        first = spool.sha256
    with token_cache.spooled([*texts, TextExample("a", "b", "c")]) as spool:
        assert spool.sha256 != first


# --- training -------------------------------------------------------------------------------------------------------


def test_a_second_training_uses_the_cache_and_reports_the_same(model_folder, tmp_path, cache, tokenizations):
    config = TrainConfig(args={"use_cpu": True, "max_steps": 2})
    texts, held_out = [*preference_texts(6), *BAD], [*preference_texts(3, start=50), BAD[0]]
    reports = []
    for name in ("one", "two"):
        reports.append(train(str(model_folder("mt5")), texts, config, tmp_path / name, eval_texts=held_out))
    assert len(tokenizations) == 2  # those of training, and those held out
    for name in ("examples", "dropped", "dropped_ids", "eval_examples", "eval_dropped", "eval_dropped_ids", "data"):
        assert reports[0][name] == reports[1][name]
    assert reports[0]["dropped"] == {"chosen_equals_rejected": 1, "empty_source": 1}
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    other = config.model_copy(update={"max_target_tokens": 400})
    train(str(model_folder("mt5")), texts, other, tmp_path / "three", eval_texts=held_out)
    assert len(tokenizations) == 4


def test_a_copy_of_the_tokenizer_shares_the_cache(model_folder, load, tmp_path, cache, tokenizations):
    shutil.copytree(model_folder("mt5"), tmp_path / "copy")
    for layout in (load("mt5").layout, load_model(str(tmp_path / "copy"), "float32", device="cpu").layout):
        encode_within_limits(layout, preference_texts(3), LIMITS)
    assert len(tokenizations) == 1
    assert json.loads((entries(cache)[0] / "examples" / token_cache.NOTES).read_text())["notes"]["parts"] == 3
