import os
import subprocess
import sys
import time
from functools import partial

import pytest
from support.console import ENVIRONMENT, call
from support.planted import STANDARD, executed, plant_modules

from mtcpo.core.errors import UserError
from mtcpo.core.workers import TASKS_AHEAD, TASKS_PER_WORKER, map_in_order, result_of, worker_pool
from mtcpo.data.file_formats.registry import write_row_file

SCRIPT = """
from mtcpo.core.workers import result_of, worker_pool

if __name__ == "__main__":
    with worker_pool(2) as submit:
        print([result_of(future) for future in [submit(pow, 2, power) for power in range(4)]])
"""


@pytest.fixture
def here(tmp_path):
    """An empty folder to be the working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.mark.processes
def test_calls_run_in_other_processes():
    with worker_pool(1) as submit:
        futures = [submit(pow, 2, power) for power in range(4)]
        worker = result_of(submit(os.getpid))
        assert [result_of(future) for future in futures] == [1, 2, 4, 8]
    assert worker != os.getpid()


@pytest.mark.processes
def test_an_exception_in_a_worker_is_raised_here_and_the_end_of_one_is_explained():
    with worker_pool(1) as submit:
        with pytest.raises(ZeroDivisionError):
            result_of(submit(divmod, 1, 0))
        with pytest.raises(
            UserError, match=r"a scoring process ended: it was killed, ran out of memory, .*; use fewer workers"
        ):
            result_of(submit(os._exit, 1))


@pytest.mark.processes
def test_workers_import_no_module_of_the_working_directory(here, tmp_path):
    marks = plant_modules(here, *STANDARD)
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, env=ENVIRONMENT, check=False)
    assert executed(marks) == []
    assert done.stdout == "[1, 2, 4, 8]\n", done.stderr


@pytest.mark.processes
def test_the_pool_leaves_the_environment_as_it_was(monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = dict(os.environ)
    with worker_pool(1) as submit:
        assert result_of(submit(len, "abc")) == 3
        assert dict(os.environ) == before
    assert dict(os.environ) == before


@pytest.mark.processes
def test_a_command_and_its_processes_import_no_module_of_the_working_directory(here):
    # Python itself imports `warnings`, and what that needs, from there before any code of ours.
    marks = plant_modules(here, "json", "numpy", "pickle", "random", "struct")
    candidates = [{"system": name, "text": f"a text of {name}"} for name in ("first", "second")]
    segment = {"src_lang": "de", "tgt_lang": "en", "source": "Ein Text", "references": ["a text"]}
    # More than are scored without worker processes.
    rows = [{"id": str(number), **segment, "candidates": candidates} for number in range(600)]
    write_row_file(here / "c.jsonl", rows)
    outcome = call("build-prefs", "c.jsonl", "--metric", "chrf", "--workers", "2", "--output", "p.jsonl", cwd=here)
    assert executed(marks) == []
    assert outcome.code == 0, outcome.err


# --- map_in_order -----------------------------------------------------------------------------------------------------


def process_of(number):
    """Return in which process this runs; the more slowly, the smaller the number."""
    time.sleep(0.2 / (1 + number))
    return os.getpid()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.processes)])
def test_results_come_in_the_order_of_the_items(workers):
    squares = map_in_order(partial(pow, 2), range(100), workers)
    assert list(squares) == [(number, 2**number) for number in range(100)]


def test_one_worker_is_this_process():
    assert {process for _, process in map_in_order(process_of, range(3), 1)} == {os.getpid()}


@pytest.mark.processes
def test_two_workers_are_this_process_and_another():
    processes = [process for _, process in map_in_order(process_of, range(20), 2)]
    assert len(set(processes)) == 2
    assert os.getpid() in processes


@pytest.mark.processes
def test_only_a_bounded_number_of_items_is_read_ahead():
    read = []

    def items():
        for number in range(1000):
            read.append(number)
            yield number

    results = map_in_order(abs, items(), 2)
    next(results)
    assert len(read) <= TASKS_AHEAD + TASKS_PER_WORKER
    results.close()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.processes)])
def test_an_exception_of_a_task_is_raised_where_its_result_is_due(workers):
    quotients = map_in_order(partial(divmod, 1), [1, 0], workers)
    assert next(quotients) == (1, (1, 0))
    with pytest.raises(ZeroDivisionError):
        next(quotients)
