"""`mtcpo translate` in two processes of one launch: the same file as one writes, also after one of them was killed."""

import shutil

import pytest
from support.console import call, finish, lines_of, start, words, write_lines
from support.timing import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.processes]

COMMAND = words(
    "translate s.en --model mt5dir --src-lang en --tgt-lang de --num-candidates 2 --sampling epsilon "
    "--set max_new_tokens=6 --output"
)


@pytest.fixture
def folder(tmp_path, model_folder):
    """A folder with a model and sources of six windows."""
    shutil.copytree(model_folder("mt5"), tmp_path / "mt5dir")
    write_lines(tmp_path / "s.en", lines_of("prefs.en", 1500))
    return tmp_path


def launch(folder, output, rank):
    """Start one of two processes."""
    return start(*COMMAND, output, cwd=folder, RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))


def test_two_processes_write_the_file_of_one(folder):
    assert call(*COMMAND, "one.jsonl", cwd=folder).code == 0
    first, second = (finish(process) for process in [launch(folder, "two.jsonl", rank) for rank in (0, 1)])
    assert (first.code, first.out, first.err) == (0, "two.jsonl: 1500 sources, 2 candidates each\n", "")
    assert (second.code, second.out, second.err) == (0, "", "")
    assert (folder / "two.jsonl").read_bytes() == (folder / "one.jsonl").read_bytes()
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_loses_its_window_alone_and_the_command_goes_on(folder, killed):
    assert call(*COMMAND, "one.jsonl", cwd=folder).code == 0
    processes = [launch(folder, "two.jsonl", rank) for rank in (0, 1)]
    windows = folder / ".two.jsonl.windows"
    own_first = windows / f"00000{killed}.jsonl"
    wait_until(own_first.exists, processes[killed])
    processes[killed].kill()
    outcomes = [finish(process) for process in processes]
    assert outcomes[killed].code == -9
    # The other one finishes what is its own. Only the first waits, and says what is missing.
    assert outcomes[1 - killed].code == (2 if killed == 1 else 0)
    if killed == 1:
        assert "process 2 of 2 ended before its sources were translated" in outcomes[0].err
    done = len(list(windows.glob("*.jsonl")))
    assert 4 <= done < 6
    times = {path.name: path.stat().st_mtime_ns for path in windows.glob("*.jsonl")}
    assert own_first.name in times
    assert call(*COMMAND, "two.jsonl", cwd=folder).code == 0
    assert (folder / "two.jsonl").read_bytes() == (folder / "one.jsonl").read_bytes()
