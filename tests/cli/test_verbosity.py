"""--quiet and --verbose: what goes to stderr besides errors."""

import json

import pytest
from support.console import mistake, run, words, write_lines

from mtcpo.core.progress import set_verbosity

COMMAND = (
    "build-prefs --source s.en --reference r.de --hyp a=r.de --hyp b=h.de --src-lang en --tgt-lang de "
    "--metric chrf --set combine=zscore-set --output p.jsonl --overwrite"
)


@pytest.fixture(autouse=True)
def texts(tmp_path, monkeypatch):
    """A source with a reference and a worse hypothesis, in the working directory; afterwards, normal verbosity."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "s.en", ["One.", "Two birds."])
    write_lines(tmp_path / "r.de", ["Eins.", "Zwei Vögel."])
    write_lines(tmp_path / "h.de", ["Ein.", "Zwei Vogel."])
    yield
    set_verbosity()


def test_a_short_command_prints_nothing_on_stderr(capsys):
    assert run(capsys, *words(COMMAND)).err == ""


def test_quiet_keeps_the_results(capsys):
    outcome = run(capsys, *words(COMMAND), "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("p.jsonl: 2 triplets from 2 segments\n")


def test_verbose_prints_settings_and_timings(capsys):
    outcome = run(capsys, *words(COMMAND), "--verbose")
    assert outcome.code == 0
    settings, *stages = [line for line in outcome.err.splitlines() if not line.startswith("data: ")]
    name, _, section = settings.partition(": ")
    assert (name, json.loads(section)) == ("prefs", {"metrics": ["chrf"], "combine": "zscore-set"})
    assert stages == ["scoring by chrf: 2 segments in 0 s", "choosing pairs: 2 segments in 0 s"]


def test_a_command_after_a_quiet_one_is_not_quiet(capsys):
    run(capsys, *words(COMMAND), "--quiet")
    assert "scoring by chrf" in run(capsys, *words(COMMAND), "--verbose").err


@pytest.mark.parametrize("command", ["translate", "build-prefs", "train", "evaluate", "run", "export"])
def test_every_command_that_does_work_refuses_both(capsys, command):
    needed = {
        "translate": "s.en --model m --output o",
        "build-prefs": "c.jsonl --output o",
        "train": "--model m --output-dir o",
        "evaluate": "",
        "run": "demo",
        "export": "p.jsonl --to trl --output o",
    }
    line = mistake(capsys, command, *words(needed[command]), "--quiet", "--verbose")
    assert line == "--quiet and --verbose exclude each other; give one of them"
