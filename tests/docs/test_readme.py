"""The README's commands, run as they stand there, on a small demo in a folder of their own."""

import re
import shlex

import pytest
from click.testing import CliRunner
from support.commands_of_pages import commands_of, shortened
from support.paths import ROOT

from mtcpo.cli.commands import mtcpo
from mtcpo.core.errors import UserError

COMMANDS = commands_of(ROOT / "README.md")
NEEDS_NETWORK = ["run", "mt5-small-wmt-en-de", "--output-dir", "runs/mt5"]


def test_there_are_commands_to_run():
    assert {command[0] for command in COMMANDS} >= {"translate", "build-prefs", "train", "evaluate", "run", "export"}
    assert NEEDS_NETWORK in COMMANDS


@pytest.mark.slow
def test_commands_run_in_their_order(after_demo):
    for command in COMMANDS:
        if command == NEEDS_NETWORK:
            continue
        result = CliRunner().invoke(mtcpo, shortened(command), catch_exceptions=False)
        assert result.exit_code == 0, f"mtcpo {shlex.join(command)}\n{result.output}"
    for made in (
        "runs/candidates.jsonl",
        "runs/prefs.jsonl",
        "runs/prefs-report.json",
        "runs/tuned/model.safetensors",
        "runs/adapters/adapter_model.safetensors",
        "runs/trl.jsonl",
    ):
        assert (after_demo / made).is_file(), made
    assert (after_demo / "runs/evaluation/evaluation.json").is_file()
    assert (after_demo / "runs/systems/evaluation.json").is_file()


def test_the_command_that_needs_a_network_is_a_one_line_error_without_one(after_demo, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="give that directory"):
        CliRunner().invoke(mtcpo, NEEDS_NETWORK, catch_exceptions=False, standalone_mode=False)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make ([\w-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_pictures_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
