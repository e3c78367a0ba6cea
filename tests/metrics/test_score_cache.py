import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from support.paths import ROOT
from support.timing import HANGS, wait_until

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, ErrorSpan, Segment
from mtcpo.metrics.base import NeuralMetric, ScoreWithSpans
from mtcpo.metrics.comet.metric import CometMetric
from mtcpo.metrics.score_cache import CachedMetric, ScoreCache, score_key
from mtcpo.metrics.scorer import Scorer
from mtcpo.preferences.build import PrefsConfig, build_preferences


class Lengths(NeuralMetric):
    """A metric that keeps what it was given to score."""

    name = "lengths"
    needs_references = False

    def __init__(self, version="1", uses_references=True):
        self.version = version
        self.uses_references = uses_references
        self.asked = []

    def signature(self, num_references, sentence=False):
        return f"nrefs:{num_references}|version:{self.version}"

    def score_candidates(self, segments):
        self.asked += [(s.id, c.text) for s in segments for c in s.candidates]
        return [[len(c.text) / (len(s.source) + sum(map(len, s.references))) for c in s.candidates] for s in segments]


def segment(*texts, name="1", source="Quelle", references=("reference",)):
    candidates = tuple(Candidate(f"s{n}", text) for n, text in enumerate(texts))
    return Segment(name, "de", "en", source, tuple(references), candidates=candidates)


@pytest.fixture
def cache(tmp_path):
    opened = ScoreCache(tmp_path / "scores.sqlite3")
    yield opened
    opened.close()


def test_only_scores_that_the_cache_lacks_are_computed(cache):
    metric = Lengths()
    cached = CachedMetric(metric, cache)
    first = segment("a", "bb")
    assert cached.score_candidates([first]) == metric.score_candidates([first])
    metric.asked.clear()
    more = segment("bb", "ccc", "a")
    assert cached.score_candidates([first, more]) == Lengths().score_candidates([first, more])
    assert metric.asked == [("1", "ccc")]
    metric.asked.clear()
    for other in (segment("a", source="Andere"), segment("a", references=("x",)), segment("a", references=("a", "b"))):
        cached.score_candidates([other])
    assert len(metric.asked) == 3
    newer = Lengths(version="2")
    CachedMetric(newer, cache).score_candidates([first])
    assert len(newer.asked) == 2
    assert cached.score_candidates([]) == []


def test_keys_of_a_reference_free_metric_do_not_depend_on_references(cache):
    metric = Lengths(uses_references=False)
    cached = CachedMetric(metric, cache)
    cached.score_candidates([segment("a", references=("one",))])
    cached.score_candidates([segment("a", references=("another", "two"))])
    assert len(metric.asked) == 1


def test_keys_keep_source_hypothesis_and_references_apart():
    keys = {
        score_key(*parts) for parts in [("s", "ab", "c", ["d"]), ("s", "a", "bc", ["d"]), ("s", "ab", "c", ["d", ""])]
    }
    assert len(keys) == 3


def test_scores_and_spans_come_back_exactly(cache, tmp_path):
    found = (ErrorSpan("ka„\u2028", 0, 3, "major", 0.1 + 0.2),)
    scores = {
        score_key("s", str(n), "h", []): ScoreWithSpans((n + 1) / 3e7, (None, (), found)[n % 3]) for n in range(2000)
    }
    cache.add(scores)
    assert cache.get([*scores, b"unknown"]) == scores
    again = ScoreCache(tmp_path / "scores.sqlite3")
    assert again.get(list(scores)) == scores
    assert again.note == ""
    again.close()


def test_a_cached_score_is_not_replaced_and_nan_is_not_cached(cache):
    key, other = score_key("s", "a", "b", []), score_key("s", "a", "c", [])
    cache.add({key: ScoreWithSpans(1.0)})
    cache.add({key: ScoreWithSpans(2.0), other: ScoreWithSpans(float("nan"))})
    assert cache.get([key, other]) == {key: ScoreWithSpans(1.0)}


def test_a_cache_of_another_version_is_replaced_with_a_note(tmp_path):
    path = tmp_path / "scores.sqlite3"
    key = score_key("s", "a", "b", [])
    old = ScoreCache(path)
    old.add({key: ScoreWithSpans(1.0)})
    old.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    new = ScoreCache(path)
    assert new.note == f"{path} was written by another version of mtcpo (7); starting a new cache"
    assert new.get([key]) == {}
    new.add({key: ScoreWithSpans(2.0)})
    new.close()
    assert ScoreCache(path).get([key]) == {key: ScoreWithSpans(2.0)}


# --- caches of 0.1 stay valid -----------------------------------------------------------------------------------------

OLD_SEGMENT = Segment(
    "1", "de", "en", "Ein „Satz“.", ("A sentence.", "One sentence."),
    candidates=(Candidate("a", "A sentence!"), Candidate("b", "Sätze")),
)  # fmt: skip

OLD_KEYS = {
    "comet": (
        "0fb5a3e13d49c9f61c657575847d00660e41f41b11230115f5196020fcc83bef",
        "ae2e89420248adb3c937f1081523ca9bbdc3997de692658c01b6c0a96a0ce838",
    ),
    "cometkiwi": (
        "b06347167dedb6ede1637d48b978a320982726a52d0fa2bab1ddb59313c68c5b",
        "dac1396ee489eebbfd2d0a0d463a7fe52a43c6ce1b04ca409d0e8e01316637dd",
    ),
    "xcomet": (
        "0286832e2ad1f4f1146f94bc43fab785e447108fad06854ef94b6dc601809b32",
        "853be4a00d27619f61c32fe3ef322fb42a7c0aec2e88c2d027144177345a9f03",
    ),
    "short": (
        "99c0621d2417649aaeb75dbba3530b3a008e746c4d1af08e6dbe3db69668f5c9",
        "4a94e2d714ed69403aa7e63af28e70ca88a701685edb2c80dbaddfac473c1724",
    ),
}
"""The keys under which the package before its move into sub-packages wrote the scores of `OLD_SEGMENT`."""

CLASSES = {
    "comet": "regression_metric",
    "cometkiwi": "referenceless_regression_metric",
    "xcomet": "xcomet_metric",
}


def write_old_cache(path, name):
    """Write a cache as the old code did: keys and scores."""
    cache = ScoreCache(path)
    first, second = map(bytes.fromhex, OLD_KEYS[name])
    cache.add({first: ScoreWithSpans(0.25), second: ScoreWithSpans(0.75)})
    cache.close()


class NoRunner:
    """Fails where a score is computed, not looked up."""

    def predict(self, blocks):
        pytest.fail(f"{sum(map(len, blocks))} rows were not in the cache")


@pytest.mark.parametrize("name", CLASSES)
def test_scores_of_comet_in_an_old_cache_are_found(name, tmp_path):
    write_old_cache(tmp_path / "scores.sqlite3", name)
    needs_references = name != "cometkiwi"
    metric = CometMetric(
        name, f"Unbabel/{name}", CLASSES[name], "0123456789abcdef", "fp32", "2.2.7", NoRunner(),
        needs_references=needs_references, uses_references=needs_references,
    )  # fmt: skip
    assert metric.signature(2) == (
        f"nrefs:{2 * needs_references}|model:Unbabel/{name}|class:{CLASSES[name]}"
        "|weights:0123456789ab|precision:fp32|comet:2.2.7"
    )
    cache = ScoreCache(tmp_path / "scores.sqlite3")
    assert CachedMetric(metric, cache).score_candidates([OLD_SEGMENT]) == [[0.25, 0.75]]
    cache.close()


def test_scores_of_a_users_metric_in_an_old_cache_are_found(tmp_path, monkeypatch):
    write_old_cache(tmp_path / "scores.sqlite3", "short")
    monkeypatch.chdir(tmp_path)
    # The key has the hash of this text.
    code = (
        "def shortness(sources, hypotheses, references):\n    return [-len(hypothesis) for hypothesis in hypotheses]\n"
    )
    (tmp_path / "own_scores.py").write_bytes(code.encode())
    scorer = Scorer(["short=python:own_scores:shortness"], cache=tmp_path / "scores.sqlite3")
    [scored] = scorer.score([OLD_SEGMENT])
    scorer.close()
    sys.modules.pop("own_scores")
    assert [candidate.scores["short"] for candidate in scored.candidates] == [0.25, 0.75]


def test_a_file_that_is_not_a_score_cache_is_not_changed(tmp_path):
    path = tmp_path / "scores.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="the database of another program; choose another --score-cache"):
        ScoreCache(path)
    assert path.read_bytes() == before
    path.write_bytes(b"no database at all, but long enough to be looked at" * 50)
    with pytest.raises(UserError, match=r"cannot be used as a score cache \(file is not a database\); delete it"):
        ScoreCache(path)
    with pytest.raises(UserError, match="unable to open database file"):
        ScoreCache(tmp_path / "no" / "folder" / "scores.sqlite3")


WRITER = """
import sys
from pathlib import Path
from mtcpo.metrics.base import NeuralMetric, ScoreWithSpans
from mtcpo.metrics.score_cache import ScoreCache, score_key

cache = ScoreCache(Path(sys.argv[1]))
for batch in range(40):
    cache.add({score_key("s", str(n), "h", []): ScoreWithSpans(float(n)) for n in range(batch * 10, batch * 10 + 10)})
"""


def python(tmp_path, code, *arguments):
    """Start a process with our package, in a folder of its own."""
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, str(script), *map(str, arguments)], cwd=tmp_path, env=environment)


@pytest.mark.processes
def test_two_processes_can_write_one_cache(tmp_path):
    path = tmp_path / "scores.sqlite3"
    processes = [python(tmp_path, WRITER, path) for _ in range(2)]
    assert [process.wait(timeout=HANGS) for process in processes] == [0, 0]
    cache = ScoreCache(path)
    keys = [score_key("s", str(n), "h", []) for n in range(400)]
    assert cache.get(keys) == {key: ScoreWithSpans(float(n)) for n, key in enumerate(keys)}


SLOW = """
import time
from pathlib import Path

def slow(sources, hypotheses, references):
    time.sleep(0.02)
    with Path("calls.txt").open("a") as file:
        file.write("".join(f"{text}\\n" for text in hypotheses))
    return [(len(text) * 7919 % 104729) / 3e5 + len(source) / 7 for text, source in zip(hypotheses, sources)]
"""

# A scoring run with a slow metric of the user's own, in small chunks, so that there are many to be killed in.
RUN = """
import sys
from pathlib import Path
from mtcpo.core.config import load_section
from mtcpo.data.records import Candidate, Segment
from mtcpo.metrics import scorer
from mtcpo.preferences.build import PrefsConfig, build_preferences

scorer.SEGMENTS_PER_MODEL_CHUNK = 4

def segments():
    for n in range(120):
        candidates = tuple(Candidate(f"s{k}", f"text {n} {'x' * (k * n % 17)} {k}") for k in range(3))
        yield Segment(str(n), "de", "en", f"Satz {n}", candidates=candidates)

settings = {"metrics": ["slow=python:slow_metric:slow"], "select": "best-vs-rest", "balance_length": True}
config = load_section(PrefsConfig, settings, "test", allow_code=True)
build_preferences(segments(), config, Path(sys.argv[1]), scored=Path("scored.jsonl"))
"""


@pytest.mark.slow
def test_a_build_killed_ten_times_and_resumed_writes_the_same_files(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "slow_metric.py").write_text(SLOW, encoding="utf-8")
    assert python(whole, RUN, "prefs.jsonl").wait(timeout=HANGS) == 0
    kills = 0
    for attempt in range(10):
        before = count_lines(killed / "calls.txt")
        process = python(killed, RUN, "prefs.jsonl")
        # Each attempt lives until it has scored some more; at which instruction it dies differs every time.
        target = before + 12 * (1 + attempt % 3)
        wait_until(lambda: process.poll() is not None or count_lines(killed / "calls.txt") >= target)  # noqa: B023
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        assert process.wait() in (0, -signal.SIGKILL)
        if process.returncode:
            assert not (killed / "prefs.jsonl").exists()
    assert kills >= 8
    assert python(killed, RUN, "prefs.jsonl").wait(timeout=HANGS) == 0
    for name in ("prefs.jsonl", "scored.jsonl", "prefs-report.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    # Nothing was computed twice but the chunk in flight at each kill: 12 texts.
    assert count_lines(killed / "calls.txt") <= count_lines(whole / "calls.txt") + 12 * kills
    assert count_lines(whole / "calls.txt") == 360
    # Nothing is left behind but what the runs share.
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}


def count_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_second_build_computes_only_new_candidates(tmp_path, monkeypatch):
    (tmp_path / "counted_metric.py").write_text(
        "calls = []\n"
        "def score(sources, hypotheses, references):\n"
        "    calls.extend(hypotheses)\n"
        "    return [len(text) for text in hypotheses]\n"
    )
    monkeypatch.chdir(tmp_path)
    from mtcpo.core.config import load_section

    settings = {"metrics": ["own=python:counted_metric:score"]}
    config = load_section(PrefsConfig, settings, "test", allow_code=True)
    segments = [segment("a", "bb", name="1"), segment("cc", "dddd", name="2", source="Zwei")]
    build_preferences(segments, config, tmp_path / "p.jsonl")
    import counted_metric

    assert counted_metric.calls == ["a", "bb", "cc", "dddd"]
    segments[1] = replace(segments[1], candidates=(*segments[1].candidates, Candidate("s2", "eeeeee")))
    report = build_preferences(segments, config, tmp_path / "q.jsonl")
    assert counted_metric.calls[4:] == ["eeeeee"]
    assert report.metrics["own"].startswith("python:counted_metric:score|sha256:")
    elsewhere = load_section(PrefsConfig, settings | {"score_cache": str(tmp_path / "o.db")}, "test", allow_code=True)
    build_preferences(segments, elsewhere, tmp_path / "r.jsonl")
    assert len(counted_metric.calls) == 10
    assert (tmp_path / "o.db").is_file()


def test_lexical_metrics_write_no_cache(tmp_path):
    build_preferences([segment("reference", "bb")], PrefsConfig(metrics=("chrf",)), tmp_path / "p.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p-report.json", "p.jsonl"]
