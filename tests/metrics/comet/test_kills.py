"""A scoring run with a real COMET model that is killed ten times, or whose scoring process is, ends as if it never was.

The moments are chosen by what the cache holds, so that they lie over the whole run on any machine.
"""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support.comet import made_up_sentences
from support.console import write_lines
from support.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.comet,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc and ps to see processes end"),
]

# Libraries that take seconds to import are imported once: each run is a fork of this process, a process of its own.
DRIVER = """
import json, os, random, signal, sqlite3, sys, time
from pathlib import Path
import comet.models, torch
from support.comet import CORPUS_OPTIONS
from support.processes import children_of, is_alive
from support.timing import HANGS, wait_until
from mtcpo.cli.main import main
from mtcpo.metrics import scorer
from mtcpo.metrics.comet import metric
from mtcpo.metrics.score_cache import ScoreCache

scorer.SEGMENTS_PER_MODEL_CHUNK = metric.SEGMENTS_PER_BLOCK = 10  # many units of work to be killed in
CHUNK = 40  # rows that are added at once with two processes
rng, here = random.Random(4), Path.cwd()


def start(name, processes, stop_at=None):
    # stop_at: rows at which the run stops itself, if it was not met before: it shall not end unmet on any machine.
    (here / name).mkdir(exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    add = ScoreCache.add

    def add_and_stop(cache, found):
        add(cache, found)
        if stop_at is not None and rows(name) >= stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)

    ScoreCache.add = add_and_stop
    for number, file in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{file}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    command = f"build-prefs {CORPUS_OPTIONS} --metric comet:{sys.argv[1]} --set comet.processes={processes}"
    try:
        main([*command.split(), "--output", f"{name}/p.jsonl"])
        code = 0
    except SystemExit as error:
        code = error.code or 0
    os._exit(code)


def rows(name):
    try:
        connection = sqlite3.connect(f"file:{here / name}/scores.sqlite3?mode=rw", uri=True, timeout=HANGS)
        found = connection.execute("SELECT count(*) FROM scores").fetchone()[0]
        connection.close()
        return found
    except sqlite3.OperationalError:  # does not exist yet
        return 0


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(name, processes, target, worker=False):
    pid, stop_at = start(name, processes, target + 2 * CHUNK), target + 2 * CHUNK
    wait_until(lambda: rows(name) >= target)
    journal = here / name / "scores.sqlite3-journal"
    if rng.random() < 0.5:  # in the middle of a transaction
        wait_until(lambda: journal.exists() or rows(name) >= stop_at)
    time.sleep(rng.random() * 0.01)
    workers = children_of(pid)
    if worker:
        os.kill(pid, signal.SIGSTOP)
        os.kill(workers[-1], signal.SIGKILL)
        os.kill(pid, signal.SIGCONT)
    else:
        os.kill(pid, signal.SIGKILL)
    code = ended(pid)
    wait_until(lambda: not any(map(is_alive, workers)))
    return {"code": code, "rows": rows(name), "workers": len(workers), "said": Path(f"{name}.err").read_text(),
            "left": (here / name / "p.jsonl").exists()}


outcome = {"whole": ended(start("whole", 1))}
last = rows("whole") - 4 * CHUNK
for name, processes, times in (("alone", 1, 10), ("together", 2, 2)):
    kills = [kill(name, processes, last * (2 * number + 1) // (2 * times)) for number in range(times)]
    if processes > 1:
        outcome["worker"] = kill(name, processes, last, worker=True)
    outcome[name] = {"kills": kills, "end": ended(start(name, processes))}
print(json.dumps(outcome))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, comet_models):
    """What the driver says, and where its files are."""
    folder = tmp_path_factory.mktemp("kills")
    for seed, name in enumerate(("s.de", "r.en", "a.en", "b.en")):
        write_lines(folder / name, made_up_sentences(600, seed))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(comet_models["regression"])]
    driver = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, wrong = driver.communicate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)  # also a run that stopped itself
    assert driver.returncode == 0, wrong
    found = json.loads(said)
    assert found["whole"] == 0
    return found | {"folder": folder}


FILES = ("p.jsonl", "p-report.json", "p-report.html")


def contents(folder):
    with closing(sqlite3.connect(folder / "scores.sqlite3")) as connection:
        return sorted(connection.execute("SELECT * FROM scores"))


@pytest.mark.parametrize(("name", "processes", "times"), [("alone", 1, 10), ("together", 2, 2)])
def test_a_build_that_is_killed_and_resumed_writes_the_same_files(outcome, name, processes, times):
    """With scoring processes it is killed less often: each of them imports torch and COMET, which takes seconds."""
    kills, workers = outcome[name]["kills"], 0 if processes == 1 else processes
    assert [(kill["code"], kill["left"], kill["workers"]) for kill in kills] == [(-9, False, workers)] * times
    reached = [kill["rows"] for kill in kills]
    assert reached == sorted(reached)
    assert reached[-1] >= reached[0] + 400  # met all over the run
    assert outcome[name]["end"] == 0
    whole, killed = outcome["folder"] / "whole", outcome["folder"] / name
    assert {path.name for path in killed.iterdir()} == {*FILES, "scores.sqlite3"}
    for file in FILES:
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file
    assert contents(killed) == contents(whole)
    assert len(contents(whole)) == 1200


def test_a_killed_scoring_process_ends_the_command_with_one_line(outcome):
    worker = outcome["worker"]
    assert (worker["code"], worker["left"], worker["workers"]) == (2, False, 2)
    assert re.fullmatch(
        r"mtcpo: a scoring process of \S+ was killed \(SIGKILL\), perhaps for lack of memory; run the same "
        r"command again to resume, with fewer comet\.processes or comet\.batch_tokens if that recurs\n",
        worker["said"],
    )
