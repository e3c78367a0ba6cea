"""Commands as users run them: in this process where that is quick, in one of their own where signals matter."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mtcpo.cli.main import main
from support.paths import ROOT
from support.timing import HANGS

DEMO = ROOT / "data/demo"

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


INTERRUPTED = "mtcpo: interrupted; repeat the command to resume\n"
"""All that a command prints that is interrupted before its work has begun."""


def interrupted(standing):
    """All that an interrupted command prints. standing: where its work stands."""
    return f"mtcpo: interrupted: {standing}; repeat the command to resume\n"


@dataclass
class Outcome:
    """How a command ended: its exit code, what it printed on stdout and stderr, and the engines that it named there."""

    code: int
    out: str
    err: str
    engines: tuple[str, ...] = ()

    @classmethod
    def of(cls, code, out, err):
        """An outcome whose `err` is without the line that says which engine translates: it comes before all else."""
        lines = err.splitlines(keepends=True)
        engines = [line for line in lines if line.startswith("translating with ")]
        return cls(code, out, "".join(line for line in lines if line not in engines), tuple(engines))


def words(text):
    """A command as its arguments; none of them has a space."""
    return text.split()


def lines_of(name, count, start=0):
    """Some lines of a file of the demo corpus."""
    return (DEMO / name).read_text(encoding="utf-8").splitlines()[start : start + count]


def write_lines(path, lines):
    """Write lines to a file and return its path."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def exit_code(*arguments):
    """Run a command in this process, whose signal handlers stay what they were; return its exit code."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    raise AssertionError("main() returns only by SystemExit")


def run(capsys, *arguments):
    """Run a command in this process."""
    capsys.readouterr()
    code = exit_code(*arguments)
    captured = capsys.readouterr()
    return Outcome.of(code, captured.out, captured.err)


def mistake(capsys, *arguments):
    """Run a command that must refuse, and return its one line: exit code 2, nothing else on stdout or stderr."""
    outcome = run(capsys, *arguments)
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("mtcpo: ")
    return outcome.err.removeprefix("mtcpo: ").rstrip("\n")


def start(*arguments, cwd, **environment):
    """Start a command in a process (and a process group) of its own; `environment` is added to ours."""
    # Where the tests themselves run in the background, SIGINT is ignored, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "mtcpo", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
            env=ENVIRONMENT | environment,            start_new_session=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def finish(process):
    """Wait for a command that was started."""
    try:
        out, err = process.communicate(timeout=HANGS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Outcome.of(process.returncode, out, err)


def call(*arguments, cwd):
    """Run a command in a process of its own."""
    return finish(start(*arguments, cwd=cwd))


@contextmanager
def small_disk(place, size, options="") -> Iterator[Path]:
    """Mount a file system of `size` bytes at `place`; skip the test where that is not allowed."""
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", place], check=True,
                       capture_output=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a small file system here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def contents(folder):
    """Every file of a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
