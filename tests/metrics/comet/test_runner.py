"""COMET's three ways give equal scores; its processes share the work and end with their parent; the cache spares it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from support.comet import CORPUS_OPTIONS, comet_segments, made_up_sentences
from support.console import finish, interrupted, mistake, run, start, write_lines
from support.planted import STANDARD, executed, plant_modules
from support.processes import children_of, is_alive
from support.requirements import has_comet
from support.timing import wait_until

from mtcpo.core.errors import UserError
from mtcpo.metrics.comet import metric as comet
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.comet.runner import Worker
from mtcpo.metrics.registry import load_metric
from mtcpo.metrics.score_cache import CachedMetric, ScoreCache
from mtcpo.preferences.build import PrefsConfig, build_preferences

OTHER = os.environ.get("MTCPO_OTHER_PYTHON", sys.executable)
"""Where `make test-latest` runs, the interpreter of the pinned environment; else this one, as a process of its own."""

needs_other = pytest.mark.skipif(not has_comet(OTHER), reason=f"{OTHER} has no unbabel-comet")


def scores_of(metric, count=30):
    return metric.score_candidates(comet_segments(count))


@pytest.mark.processes
@pytest.mark.comet
@needs_other
def test_another_environment_computes_the_same_scores(comet_models):
    here = load_metric(f"comet:{comet_models['xcomet']}", "en")
    there = load_metric(f"comet:{comet_models['xcomet']}", "en", CometConfig(python=OTHER))
    np.testing.assert_allclose(
        np.ravel(scores_of(there)), np.ravel(scores_of(here)), atol=1e-5, err_msg=f"{sys.executable} and {OTHER}"
    )
    assert there.signature(1) == here.signature(1)
    there.runner.close()


@pytest.mark.processes
@pytest.mark.comet
def test_two_processes_give_the_same_scores_to_the_last_bit(comet_models, monkeypatch):
    monkeypatch.setattr(comet, "SEGMENTS_PER_BLOCK", 7)
    alone = load_metric(f"xcomet:{comet_models['xcomet']}", "en", CometConfig(processes=1))
    two = load_metric(f"xcomet:{comet_models['xcomet']}", "en", CometConfig(processes=2))
    assert (alone.processes, two.processes) == (1, 2)
    found = two.score_with_spans(comet_segments(40))
    assert found == alone.score_with_spans(comet_segments(40))
    assert sum(len(one.errors) for of_segment in found for one in of_segment) > 5
    assert two.score_candidates([]) == []
    two.runner.close()


def test_an_interpreter_that_cannot_score_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--comet-python /no/such/python: cannot be started \(No such file"):
        load_metric("comet:x", "en", CometConfig(python="/no/such/python"))
    bare = tmp_path / "python"
    # An interpreter without any package.
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    with pytest.raises(UserError, match="COMET is not installed") as caught:
        load_metric("comet:x", "en", CometConfig(python=str(bare)))
    assert "\n" not in str(caught.value)
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'no such machine' >&2\nexit 3\n", encoding="utf-8")
    failing.chmod(0o755)
    with pytest.raises(UserError, match=r"the scoring process of .*failing ended \(exit code 3\): no such machine"):
        load_metric("comet:x", "en", CometConfig(python=str(failing)))


# Refuses what another environment need not have: every third-party module that mtcpo imports itself, but for those that
# COMET has or needs, and all of mtcpo but for a few modules.
REFUSE = """
import sys

THIRD_PARTY = {"comet", "huggingface_hub", "numpy", "torch", "transformers"}
OURS = {"mtcpo", "mtcpo.core", "mtcpo.core.errors", "mtcpo.core.hub", "mtcpo.core.resources", "mtcpo.core.version",
        "mtcpo.data", "mtcpo.data.records", "mtcpo.metrics"}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top == "mtcpo":
            allowed = name in OURS or name.startswith("mtcpo.metrics.comet")
        else:
            frame = sys._getframe(1)
            while frame is not None and "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            importer = "" if frame is None else frame.f_globals.get("__name__", "")
            allowed = not importer.startswith("mtcpo.") or top in THIRD_PARTY or top in sys.stdlib_module_names
        if not allowed:
            raise ModuleNotFoundError(f"refused: {name}")


sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.comet
@pytest.mark.processes
def test_the_worker_needs_no_package_that_comet_does_not(comet_models, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(REFUSE, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    spec = f"comet:{comet_models['xcomet']}"
    here = load_metric(spec, "en")
    monkeypatch.setenv("PYTHONPATH", path)
    there = load_metric(spec, "en", CometConfig(python=sys.executable))
    np.testing.assert_allclose(np.ravel(scores_of(there)), np.ravel(scores_of(here)), atol=1e-5)
    there.runner.close()
    code = "import mtcpo.metrics.registry"
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    # Proof that the refusals work.
    assert "refused: mtcpo.metrics.registry" in refused.stderr


@pytest.mark.processes
def test_a_scoring_process_imports_no_module_of_the_working_directory(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    marks = plant_modules(here, *STANDARD, "importlib", "numpy", "torch")
    monkeypatch.chdir(here)
    # -S: without the site module, nothing is imported before our first line.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    for python in (sys.executable, str(bare)):
        worker = Worker(python)
        with suppress(UserError):  # without COMET it says so, which takes imports too
            worker.ask("environment")
        worker.close()
        assert executed(marks) == []


def test_the_path_of_an_interpreter_keeps_its_links(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert CometConfig(python="bin/python").python == str(tmp_path / "bin" / "python")
    assert CometConfig(python="python3").python == "python3"
    inside = CometConfig.model_validate({"python": "../bin/python"}, context={"base": tmp_path / "recipes"})
    assert inside.python == str(tmp_path / "bin" / "python")


@pytest.mark.comet
def test_half_precision_has_a_signature_of_its_own(comet_models):
    exact, half = (
        load_metric(f"comet:{comet_models['regression']}", "en", CometConfig(precision=p)) for p in ("fp32", "bf16")
    )
    assert "|precision:bf16|" in half.signature(1)
    off = abs(np.ravel(scores_of(half)) - np.ravel(scores_of(exact)))
    assert 0 < off.max() < 0.5


@pytest.mark.comet
def test_the_model_is_not_loaded_if_all_scores_are_cached(comet_models, tmp_path):
    config = PrefsConfig(metrics=(f"comet:{comet_models['regression']}",), min_margin=0.01)
    build_preferences(comet_segments(20), config, tmp_path / "a.jsonl")
    loaded = []
    original = comet.InProcess.open
    try:
        comet.InProcess.open = lambda self: loaded.append(self) or original(self)
        build_preferences(comet_segments(20), config, tmp_path / "b.jsonl")
        assert not loaded
        build_preferences(comet_segments(21), config, tmp_path / "c.jsonl")
        assert loaded
    finally:
        comet.InProcess.open = original
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()
    assert (tmp_path / "scores.sqlite3").is_file()


@pytest.mark.comet
def test_a_cached_model_scores_like_the_model(comet_models, tmp_path, monkeypatch):
    model = load_metric(f"comet:{comet_models['xcomet']}", "en")
    cache = ScoreCache(tmp_path / "scores.sqlite3")
    cached = CachedMetric(model, cache)
    segments = comet_segments(9)
    texts = [segment.candidates[1].text for segment in segments]
    expected = model.statistics(texts, segments)
    np.testing.assert_allclose(cached.statistics(texts, segments), expected, atol=1e-6)
    monkeypatch.setattr(comet.InProcess, "predict", None)
    again = cached.statistics(texts, segments)
    np.testing.assert_allclose(again, expected, atol=1e-6)
    assert cached.corpus_score(again.sum(axis=0)) == pytest.approx(expected[:, 0].mean(), abs=1e-6)
    assert cached.signature(1) == model.signature(1)
    cache.close()


@pytest.fixture
def corpus(tmp_path):
    """Files of two systems' outputs in a folder of their own."""
    for seed, name in enumerate(("s.de", "r.en", "a.en", "b.en")):
        write_lines(tmp_path / name, made_up_sentences(400, seed))
    return tmp_path


@pytest.mark.processes
@pytest.mark.comet
@needs_other
def test_evaluate_caches_scores_and_takes_another_interpreter(corpus, comet_models, capsys, monkeypatch, caplog):
    monkeypatch.chdir(corpus)
    metric = f"comet:{comet_models['regression']}"
    command = f"evaluate {CORPUS_OPTIONS} --metric {metric} --output-dir e --set resamples=10".split()
    first = run(capsys, *command, "--comet-python", OTHER)
    assert first.code == 0, first.err
    assert (corpus / "e" / "scores.sqlite3").is_file()
    before = json.loads((corpus / "e" / "evaluation.json").read_text())["pairs"]["de-en"]["systems"]
    monkeypatch.setattr(comet.InProcess, "predict", None)  # every score is there
    second = run(capsys, *command, "--overwrite", "--comet-precision", "fp32")
    assert second.code == 0, second.err
    assert json.loads((corpus / "e" / "evaluation.json").read_text())["pairs"]["de-en"]["systems"] == before
    assert mistake(capsys, *command, "--overwrite", "--comet-python", "./no").startswith("--comet-python")
    assert not caplog.messages
    with closing(sqlite3.connect("e/scores.sqlite3")) as connection:
        connection.execute("PRAGMA user_version = 1")
    monkeypatch.undo()
    monkeypatch.chdir(corpus)
    third = run(capsys, *command, "--overwrite")
    assert third.code == 0, third.err
    assert caplog.messages == [
        "mtcpo: e/scores.sqlite3 was written by another version of mtcpo (1); starting a new cache"
    ]


def test_under_a_launcher_only_the_first_process_works(corpus, capsys, monkeypatch):
    monkeypatch.chdir(corpus)
    for command, output in ((f"build-prefs {CORPUS_OPTIONS} --metric chrf --output p.jsonl", "p.jsonl"),
                          (f"evaluate {CORPUS_OPTIONS} --metric chrf --output-dir e", "e")):  # fmt: skip
        monkeypatch.setenv("RANK", "1")
        assert run(capsys, *command.split()).out == ""
        assert not (corpus / output).exists()
        monkeypatch.setenv("RANK", "0")
        assert run(capsys, *command.split()).code == 0
        assert (corpus / output).exists()


SLOW = """
import signal
from mtcpo.metrics.comet import worker
def slow(**question):
    open("scoring", "w").close()
    signal.pause()  # at work until it is killed
worker._load = slow
"""


@pytest.mark.slow
@pytest.mark.comet
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_scoring_process_ends_with_the_command(corpus, comet_models, number):
    """The signal comes while the other process is at work, which never ends by itself here."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to see processes end")
    (corpus / "slow.py").write_text(SLOW, encoding="utf-8")
    python = corpus / "python"
    python.write_text(
        f"#!/bin/sh\nshift\ncode=\"$1\"\nshift\nexec {sys.executable} -c \"${{code%main()*}}"
        f"exec(open('{corpus}/slow.py').read()); main()\" \"$@\"\n",
        encoding="utf-8",
    )  # fmt: skip
    python.chmod(0o755)
    metric = f"comet:{comet_models['regression']}"
    command = f"build-prefs {CORPUS_OPTIONS} --metric {metric} --output p.jsonl --comet-python ./python"
    process = start(*command.split(), cwd=corpus)
    wait_until((corpus / "scoring").exists, process)
    [child] = children_of(process.pid)
    process.send_signal(number)
    outcome = finish(process)
    assert outcome.code == (-signal.SIGKILL if number == signal.SIGKILL else 130), outcome
    if number != signal.SIGKILL:
        assert outcome.err == interrupted("0 segments scored, neural scores kept in scores.sqlite3")
    wait_until(lambda: not is_alive(child))
    assert not (corpus / "p.jsonl").exists()
