"""The README's commands, run as they stand there, on a small demo in a folder of their own."""

import re
import shlex
import shutil
from itertools import islice

import pytest
from click.testing import CliRunner
from support.paths import ROOT

from mtcpo.cli.commands import mtcpo
from mtcpo.core.errors import UserError

COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("    mtcpo ")
]
NEEDS_NETWORK = ["run", "mt5-small-wmt-en-de", "--output-dir", "runs/mt5"]


@pytest.fixture
def after_demo(tmp_path, model_folder, monkeypatch):
    """A folder as `make demo` leaves it, with few lines and a tiny model."""
    for name, lines in (("prefs", 12), ("dev", 40), ("test", 1000)):
        for language in ("en", "de"):
            source, target = ROOT / f"data/demo/{name}.{language}", tmp_path / f"data/demo/{name}.{language}"
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open(encoding="utf-8") as file:
                target.write_text("".join(islice(file, lines)), encoding="utf-8")
    shutil.copytree(model_folder("mt5"), tmp_path / "runs/demo/base")
    outputs = tmp_path / "runs/demo/translations/demo/en-de"
    outputs.mkdir(parents=True)
    references = (tmp_path / "data/demo/test.de").read_text(encoding="utf-8")
    (outputs / "tuned.txt").write_text(references, encoding="utf-8")
    (outputs / "base.txt").write_text(re.sub(r"\b(der|die|das)\b", "den", references), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shortened(command):
    """The tiny model never ends a sentence, so what it writes is bounded; all else is as the README has it."""
    if command[:2] == ["build-prefs", "runs/candidates.jsonl"]:
        return [*command, "--set", "min_margin=0"]  # its candidates are all alike
    limits = {"translate": "max_new_tokens=8", "evaluate": "evaluate.decoding.max_new_tokens=4"}
    return [*command, "--set", limits[command[0]]] if command[0] in limits and "--model" in command else command


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
