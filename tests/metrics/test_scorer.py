import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.paths import ROOT
from support.scoring import score, segments_to_score
from support.timing import HANGS, wait_until

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.metrics.scorer import SEGMENTS_FOR_WORKERS, Scorer, check_metrics


@pytest.fixture(scope="module")
def many():
    return list(segments_to_score(SEGMENTS_FOR_WORKERS + 200))


@pytest.mark.processes
def test_two_processes_give_the_same_scores_in_the_same_order(many):
    one = list(score(many, ["chrf", "bleu"], workers=1))
    two = list(score(iter(many), ["chrf", "bleu"], workers=2))
    assert one == two
    assert [segment.id for segment in two] == [segment.id for segment in many]
    assert all({"chrf", "bleu"} == set(c.scores) for segment in two for c in segment.candidates)


def test_scores_are_yielded_before_the_input_ends(many):
    taken = []

    def source():
        for _ in range(40):
            for segment in many:
                taken.append(segment.id)
                yield segment

    stream = score(source(), ["chrf"], workers=2)
    next(stream)
    assert len(taken) < 4 * len(many)
    stream.close()


def test_scores_that_a_candidate_has_are_kept(many):
    first = many[0]
    known = replace(first.candidates[0], scores={"chrf": 123.0, "mine": 1.0})
    mixed = replace(first, candidates=(known, *first.candidates[1:]))
    [scored] = score([mixed], ["chrf", "ter"])
    [fresh] = score([first], ["chrf", "ter"])
    assert scored.candidates[0].scores == {"chrf": 123.0, "mine": 1.0, "ter": fresh.candidates[0].scores["ter"]}
    assert scored.candidates[1:] == fresh.candidates[1:]
    assert scored.candidates[1].scores["ter"] <= 0


def test_a_column_of_scores_counts_as_a_metric(many):
    given = [replace(s, candidates=tuple(replace(c, scores={"mine": 0.5}) for c in s.candidates)) for s in many[:2]]
    assert list(score(given, ["mine"])) == given
    with pytest.raises(UserError, match="segment 1: s0 has no score 'mine', and mine is not a metric"):
        list(score([given[0], many[1]], ["mine"]))


def test_signatures_are_those_of_the_metrics_that_were_computed(many):
    scorer = Scorer(["chrf", "bleu"])
    given = [replace(s, candidates=tuple(replace(c, scores={"chrf": 1.0}) for c in s.candidates)) for s in many[:2]]
    list(scorer.score([*given, *segments_to_score(1, tgt_lang="zh")]))
    signatures = scorer.signatures(1)
    assert signatures["chrf"].startswith("nrefs:1|")
    assert "tok:13a" in signatures["bleu"]
    assert "tok:zh" in signatures["bleu"]
    kept = Scorer(["chrf"])
    list(kept.score(given))
    assert kept.signatures(1) == {"chrf": "scores found in the input"}


def test_bleu_is_tokenized_for_the_language_of_each_segment():
    chinese = Segment("1", "de", "zh", "x", ("我们走吧",), candidates=(Candidate("a", "我们走"),))
    [zh] = score([chinese], ["bleu"])
    [en] = score([replace(chinese, tgt_lang="en")], ["bleu"])
    assert zh.candidates[0].scores["bleu"] > 50
    assert en.candidates[0].scores["bleu"] == 0


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["chr"], r"unknown metric 'chr' \(did you mean 'chrf'\?\)"),
        (["chrf", "chrf"], "metric 'chrf' is given twice"),
        (["comet", "comet:other"], "metric 'comet' is given twice"),
        (["bleu:path"], "only neural metrics take a checkpoint"),
    ],
)
def test_a_wrong_metric_is_refused_before_anything_is_scored(metrics, message, many):
    with pytest.raises(UserError, match=message):
        check_metrics(metrics)
    with pytest.raises(UserError, match=message):
        next(score(many, metrics))


@pytest.mark.parametrize("place", [1, 550])  # the first chunk goes to a worker
def test_errors_in_workers_are_reported_as_in_this_process(many, place):
    broken = [*many[:place], replace(many[place], references=()), *many[place + 1 :]]
    with pytest.raises(UserError, match=f"segment {place}: no reference, and chrf needs one"):
        list(score(broken, ["chrf"], workers=2))


def test_a_score_of_nan_in_the_input_is_refused():
    nan = Segment("1", "de", "en", "x", ("y",), candidates=(Candidate("a", "y", {"chrf": float("nan")}),))
    with pytest.raises(UserError, match="segment 1: chrf of a is nan"):
        list(score([nan], ["chrf"]))


def test_empty_input_and_segments_without_candidates_pass_through():
    assert list(score([], ["chrf"])) == []
    bare = Segment("1", "de", "en", "x")
    assert list(score([bare], ["chrf"])) == [bare]


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from support.scoring import score, segments_to_score

if __name__ == "__main__":
    for number, _ in enumerate(score(segments_to_score(10**9), ["chrf"], workers=3)):
        if number == 0:
            print("scoring", flush=True)
"""


def workers_of(pid):
    """The process ids of the children of `pid` that are scoring."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def endless(tmp_path):
    """A process that scores without end beside two more, started in a process group of its own, as a shell does."""
    script = tmp_path / "endless.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests")), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_until(lambda: len(workers_of(process.pid)) == 2, process)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc and ps")
@pytest.mark.parametrize("settled", [False, True])
def test_ctrl_c_ends_all_processes_with_one_traceback(endless, settled):
    if settled:
        assert endless.stdout.readline() == "scoring\n"
    workers = workers_of(endless.pid)
    os.killpg(endless.pid, signal.SIGINT)  # as the terminal does: to every process of the group
    _, errors = endless.communicate(timeout=HANGS)
    assert errors.count("Traceback") == 1
    assert errors.strip().endswith("KeyboardInterrupt")
    wait_until(lambda: not any(map(alive, workers)))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc and ps")
def test_workers_end_when_the_main_process_is_killed(endless):
    assert endless.stdout.readline() == "scoring\n"
    workers = workers_of(endless.pid)
    assert len(workers) == 2
    endless.kill()
    wait_until(lambda: not any(map(alive, workers)))


def test_workers_import_neither_torch_nor_transformers(tmp_path):
    code = (
        "import json\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from mtcpo.metrics import scorer as scoring\n"
        "from mtcpo.data.records import Candidate, Segment\n"
        "if __name__ == '__main__':\n"
        "    segment = Segment('1', 'de', 'en', 'x', ('y',), candidates=(Candidate('a', 'y'),))\n"
        "    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:\n"
        "        print(pool.submit(scoring._score_chunk, ['chrf', 'bleu', 'ter'], [segment]).result())\n"
        "        modules = pool.submit(eval, 'sorted(__import__(\"sys\").modules)').result()\n"
        "    print(json.dumps([m for m in modules if m in ('torch', 'transformers', 'datasets', 'pandas')]))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    scores, heavy = done.stdout.splitlines()
    assert json.loads(scores) == [[[pytest.approx(100)]], [[pytest.approx(100)]], [[0.0]]]
    assert json.loads(heavy) == []
