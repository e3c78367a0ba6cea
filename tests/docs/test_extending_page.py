"""docs/extending.md: its files are written and its commands run, one after the other."""

import json
import re
import shlex
import shutil
import sys

import pytest
from support.console import run
from support.paths import ROOT

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
FILES = re.findall(r"`([\w.]+\.(?:py|csv))`[^`]*```\w*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line)[1:] for line in PAGE.splitlines() if line.startswith("    mtcpo ")]
MODULES = [name.removesuffix(".py") for name, _ in FILES if name.endswith(".py")]


@pytest.fixture
def folder(tmp_path, monkeypatch, model_folder):
    """A working directory with the page's files and a tiny model."""
    for name, text in FILES:
        (tmp_path / name).write_text(text, encoding="utf-8")
    shutil.copytree(model_folder("mt5"), tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for module in MODULES:
        sys.modules.pop(module, None)


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_page_has_a_file_and_a_command_for_each_extension():
    assert MODULES == ["my_metrics", "my_selections", "my_losses", "my_families"]
    assert [command[0] for command in COMMANDS] == ["build-prefs", "build-prefs", "train", "translate"]


def test_the_commands_run_in_their_order(folder, capsys):
    for command in COMMANDS:
        outcome = run(capsys, *command)
        assert outcome.code == 0, f"mtcpo {shlex.join(command)}\n{outcome.err}"
    pairs = rows_of(folder / "pairs.jsonl")
    assert [(pair["chosen_system"], pair["rejected_system"]) for pair in pairs] == [("a", "c"), ("a", "c"), ("a", "c")]
    # "Es regnet." against "Regen.": no word in common.
    assert pairs[0]["chosen_scores"] == {"overlap": 100}
    assert pairs[0]["rejected_scores"] == {"overlap": 0}
    assert {pair["rejected_system"] for pair in rows_of(folder / "close-pairs.jsonl")} == {"b"}
    assert json.loads((folder / "tuned/training.json").read_text(encoding="utf-8"))["steps"] >= 1
    assert (folder / "tuned/canary.json").is_file()
    assert len(rows_of(folder / "candidates.jsonl")) == 3


def test_the_program_in_python_runs(folder, monkeypatch, capsys):
    monkeypatch.syspath_prepend(folder)
    program = PAGE.partition("## In Python")[2].split("```python\n")[1].split("```")[0]
    scope = {}
    exec(compile(program, "docs/extending.md", "exec"), scope)
    assert scope["report"]["segments"] == 3
    overlap = scope["scores"]["pairs"]["en-de"]["systems"]["b"]["metrics"]["word_overlap"]["score"]
    # F1 of the words: 2 * 1 / (2 + 2) in the first sentence, 2 * 3 / (3 + 4) in the second.
    assert overlap == pytest.approx(100 * (2 / 4 + 6 / 7) / 2)
    assert "word_overlap" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[command.index("--allow-code") - 1])
def test_without_allow_code_nothing_runs(folder, capsys, command):
    for module in MODULES:
        (folder / f"{module}.py").write_text("raise SystemExit('the code ran')\n", encoding="utf-8")
    (folder / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    outcome = run(capsys, *[word for word in command if word != "--allow-code"])
    assert outcome.code == 2
    assert "pass --allow-code to run it" in outcome.err
