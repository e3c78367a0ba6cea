"""docs/data.md as it stands, and custom code in commands and recipes."""

import json
import re
import shlex
import sys

import pytest
from support.console import mistake, run
from support.paths import ROOT

from mtcpo.core.errors import UserError
from mtcpo.pipeline.recipe import load_recipe
from mtcpo.pipeline.recipe_stages import make_stages

PAGE = (ROOT / "docs/data.md").read_text(encoding="utf-8")

RECIPE = """
[model]
name = "mt5"
[data]
source = "python:own_corpus:Corpus"
src_lang = "en"
tgt_lang = "de"
[prefs]
metrics = ["chrf"]
[train]
[evaluate]
suites = ["demo"]
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in {"feed", "own_corpus"} & (set(sys.modules) - before):
        del sys.modules[name]


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_command_of_the_page_runs(here, capsys):
    files = re.findall(r"`([\w.]+)`:\n\n```\w*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["articles.csv", "feed.py"]
    for name, text in files:
        (here / name).write_text(text, encoding="utf-8")
    commands = [shlex.split(line)[1:] for line in PAGE.splitlines() if line.startswith("    mtcpo ")]
    assert len(commands) == 4
    for command in commands:
        outcome = run(capsys, *command)
        assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert rows_of(here / "columns.jsonl")[0] == {
        "prompt": "Rain. It rains.", "chosen": "Regen. Es rennt.", "rejected": "Regen. Es regnet.",
    }  # fmt: skip
    first, second = rows_of(here / "articles.jsonl")
    assert (first["source"], first["chosen_system"], first["id"]) == ("Rain. It rains.", "a", "articles.csv:2")
    assert (second["source"], second["chosen_system"]) == ("Snow. It snows, again.", "b")
    assert rows_of(here / "feed.jsonl")[1] == {
        "prompt": "Good day, Tim!", "chosen": "Guten Tag, Tim!", "rejected": "Guten Tag Tim.",
    }  # fmt: skip
    assert rows_of(here / "trl.jsonl")[0]["prompt"] == "Translate from English to German: Rain. It rains."


@pytest.mark.parametrize(
    "command",
    [
        "build-prefs python:feed:Feed --metric chrf --output x.jsonl",
        "translate python:feed:Feed --model mt5 --output x.jsonl",
        "train --prefs python:feed:Feed --model mt5 --output-dir x",
        "train --prefs p.jsonl --eval-prefs python:feed:Feed --model mt5 --output-dir x",
        "train --source python:feed:Feed --loss sft --model mt5 --output-dir x",
        "export python:feed:Feed --to trl --output x.jsonl",
        "run own.toml --dry-run",
        "run own.toml --output-dir x",
    ],
)
def test_no_command_runs_custom_code_without_the_flag(here, capsys, command):
    for name in ("feed", "own_corpus"):
        (here / f"{name}.py").write_text("raise SystemExit('code ran')", encoding="utf-8")
    (here / "own.toml").write_text(RECIPE, encoding="utf-8")
    (here / "p.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    assert "is custom Python code; pass --allow-code to run it" in mistake(capsys, *shlex.split(command))
    assert not (here / "x").exists()
    assert not (here / "x.jsonl").exists()
    # A setting of the recipe cannot allow it either.
    (here / "own.toml").write_text(f"allow_code = true\n{RECIPE}", encoding="utf-8")
    with pytest.raises(UserError):
        load_recipe(here / "own.toml")


def test_a_recipe_with_custom_code_depends_on_its_file(here, capsys):
    (here / "own_corpus.py").write_text("def Corpus():\n    return []\n", encoding="utf-8")
    (here / "own.toml").write_text(RECIPE, encoding="utf-8")
    prefs = make_stages(load_recipe(here / "own.toml", allow_code=True), here / "out")[0]
    assert prefs.name == "prefs"
    assert prefs.inputs == (str(here / "own_corpus.py"),)
    outcome = run(capsys, "run", "own.toml", "--allow-code", "--dry-run")
    assert outcome.code == 0
    assert "[1/6] prefs" in outcome.out
    (here / "own_corpus.py").unlink()
    line = mistake(capsys, "run", "own.toml", "--allow-code", "--dry-run")
    assert "no module 'own_corpus' in " in line


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "build-prefs c.csv --metric chrf --set data.sorce_column=x --output p.jsonl",
            "unknown key 'sorce_column' (did",
        ),
        ("build-prefs c.csv --metric chrf --set data.source_template={x --output p.jsonl", "expected '}' before end"),
        ("export c.csv --to trl --set tak=1 --output p.jsonl", "unknown key 'tak' (did you mean 'take'?)"),
        ("evaluate --model mt5 --suite demo --set data.take=3", "unknown key 'data'"),
    ],
)
def test_data_settings_are_checked_like_all_others(here, capsys, command, message):
    (here / "c.csv").write_text("source,x\na,b\n", encoding="utf-8")
    assert message in mistake(capsys, *shlex.split(command))


def test_subset_split_and_take_reach_preference_sets(here, capsys):
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(6)]
    datasets.DatasetDict(test=datasets.Dataset.from_list(rows)).save_to_disk("set")
    settings = ["--set", "data.split=test", "--set", "take=2", "--set", "skip=1"]
    outcome = run(capsys, "export", "set", "--to", "trl", "--output", "t.jsonl", *settings)
    assert (outcome.code, outcome.err) == (0, "")
    assert [row["prompt"] for row in rows_of(here / "t.jsonl")] == ["p1", "p2"]
