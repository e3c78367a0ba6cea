"""Runs compared: the numbers are those of one evaluation of all systems; and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
from support.console import mistake, run
from support.runs import evaluate, german_outputs, german_test_set, read_json

from mtcpo.core.errors import UserError
from mtcpo.core.files import write_json
from mtcpo.evaluation.compare_runs import compare_runs
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.evaluate import evaluate_outputs
from mtcpo.evaluation.results import to_document, write_evaluation
from mtcpo.metrics.base import NeuralMetric
from mtcpo.metrics.registry import load_metric

SHARES = {"start": 0.3, "one": 0.2, "two": 0.1}


class FakeModel(NeuralMetric):
    """A metric like COMET: a score for each segment, the mean for the corpus. Not a mock: it scores by length."""

    name, needs_references = "comet", False

    def signature(self, num_references, sentence=False):
        return "by length"

    def score_candidates(self, segments):
        return [[1 / (1 + abs(len(c.text) - len(s.source))) for c in s.candidates] for s in segments]


@pytest.fixture(scope="module")
def garden():
    return german_test_set(50)


@pytest.fixture(scope="module")
def outputs(garden):
    return german_outputs(garden, SHARES)


@pytest.fixture
def runs(tmp_path, garden, outputs):
    """Two runs that share their start; each has its own tuned system."""
    config = EvaluateConfig(resamples=100)
    for name, tuned in (("alpha", "one"), ("beta", "two")):
        texts = {"start": outputs["start"], "tuned": outputs[tuned]}
        metrics = [load_metric("bleu", "de"), load_metric("ter", "de"), FakeModel()]
        write_evaluation(tmp_path / name, [evaluate_outputs(garden, texts, metrics, config, {"bleu"})])
    return tmp_path


def test_comparing_runs_equals_evaluating_all_systems_together(runs, garden, outputs):
    (found,) = compare_runs([runs / "alpha", runs / "beta"], EvaluateConfig(resamples=100), pytest.fail)
    texts = {"start": outputs["start"], "alpha-tuned": outputs["one"], "beta-tuned": outputs["two"]}
    metrics = [load_metric("bleu", "de"), load_metric("ter", "de"), FakeModel()]
    together = evaluate_outputs(garden, texts, metrics, EvaluateConfig(resamples=100), {"bleu"})
    assert list(found.entry.systems) == ["start", "alpha-tuned", "beta-tuned"]
    assert found.entry.sha256 == together.entry.sha256
    assert found.entry.systems == together.entry.systems
    assert json.dumps(to_document([found]).to_json()) == json.dumps(to_document([together]).to_json())
    assert found.entry.metrics == together.entry.metrics


def test_the_compare_option_writes_and_prints_the_comparison(runs, capsys):
    outcome = run(capsys, "evaluate", "--compare", runs / "alpha", runs / "beta", "--metric", "chrf",
                  "--set", "resamples=50", "--output-dir", runs / "both")  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    assert "alpha-tuned" in outcome.out
    document = read_json(runs / "both/evaluation.json")
    assert list(document["pairs"]["en-de"]["systems"]) == ["start", "alpha-tuned", "beta-tuned"]
    assert list(document["pairs"]["en-de"]["metrics"]) == ["chrf"]
    assert set(document["made"]["inputs"]) == {str(runs / "alpha"), str(runs / "beta")}
    assert (runs / "both/report.html").exists()


def test_systems_that_differ_between_runs_are_named_after_their_run(runs, garden, outputs):
    shutil.rmtree(runs / "beta")
    write_evaluation(runs / "beta", [evaluate(garden, {"start": outputs["two"]})])
    lines = []
    (found,) = compare_runs([runs / "alpha", runs / "beta"], EvaluateConfig(resamples=50), lines.append)
    assert list(found.entry.systems) == ["alpha-start", "alpha-tuned", "beta-start"]
    # Formulas are computed where they were not; the model's scores are not there for all.
    assert list(found.entry.metrics) == ["bleu", "ter", "chrf"]
    assert lines == ["comet on garden en-de is left out: not every run has scores of this model"]


def test_a_test_set_that_only_some_runs_have_is_left_out_with_a_note(runs, garden, outputs, capsys):
    shutil.rmtree(runs / "beta")
    park = replace(garden, name="park")
    write_evaluation(runs / "beta", [evaluate(one, {"start": outputs["start"]}) for one in (garden, park)])
    outcome = run(capsys, "evaluate", "--compare", runs / "alpha", runs / "beta", "--metric", "chrf")
    assert outcome.code == 0
    assert outcome.err == f"park en-de is left out: {runs}/beta was evaluated on it, but not every run was\n"


def test_runs_that_cannot_be_compared_are_refused(runs, garden, outputs, capsys):
    def line(*arguments):
        return mistake(capsys, "evaluate", "--compare", *arguments)

    alpha, beta = runs / "alpha", runs / "beta"
    assert line(alpha) == "--compare needs two run directories or more: mtcpo evaluate --compare RUN1 RUN2"
    assert line(alpha, runs / "none").startswith(f"{runs}/none: no evaluation.json in it; evaluate it first")
    assert (
        line(alpha, alpha)
        == "two run directories are named 'alpha'; rename one, since systems are named after their run"
    )
    assert line(alpha, beta, "--baseline", "strat").startswith("unknown baseline 'strat' (did you mean 'start'?)")
    assert line(alpha, beta, "--suite", "demo").startswith("--compare takes run directories only, and nothing to score")
    kept = beta / "translations/garden/en-de/segments.jsonl"
    text = kept.read_text(encoding="utf-8")
    kept.write_text("".join(text.splitlines(keepends=True)[:3]), encoding="utf-8")
    assert line(alpha, beta) == f"{kept}: 3 segments, but 50 were evaluated; evaluate the run again"
    kept.unlink()
    assert line(alpha, beta) == f"{kept}: no such file"
    # The same name, other text.
    changed = replace(garden, segments=tuple(replace(s, source=s.source + "!") for s in garden.segments))
    shutil.rmtree(beta)
    write_evaluation(beta, [evaluate(changed, {"start": outputs["start"]})])
    assert "has different sources or references from that of" in line(alpha, beta)
    shutil.rmtree(beta)
    write_evaluation(beta, [evaluate(replace(garden, name="park"), {"start": outputs["start"]})])
    assert line(alpha, beta).startswith(f"no test set is common to all runs: {alpha} has garden en-de; ")
    (beta / "evaluation.json").write_text("[1]")
    assert line(alpha, beta) == f"{beta}/evaluation.json: a JSON object is needed, not list"
    (beta / "evaluation.json").write_text('{"pairs": {"en-de": {"suite": "garden"}}}')
    assert line(alpha, beta) == (
        f"{beta}/evaluation.json: not an evaluation.json of mtcpo (pairs.en-de.src_lang: Field required); "
        "evaluate again"
    )


def test_scores_of_different_neural_models_are_not_compared(runs):
    path = runs / "beta/evaluation.json"
    document = read_json(path)
    document["pairs"]["en-de"]["metrics"]["comet"]["signature"] = "another model"
    write_json(path, document)
    with pytest.raises(UserError, match=r"comet: .* have different signatures \(another model; by length\)"):
        compare_runs([runs / "alpha", runs / "beta"], EvaluateConfig(), print)


def test_two_systems_that_would_have_one_name_are_refused(tmp_path, garden, outputs):
    config = EvaluateConfig(resamples=20)
    for name, system, texts in (("a", "b-c", "one"), ("a-b", "c", "two")):
        evaluation = evaluate_outputs(garden, {system: outputs[texts]}, [load_metric("bleu", "de")], config)
        write_evaluation(tmp_path / name, [evaluation])
    with pytest.raises(UserError, match=r"a-b: two systems would be named 'a-b-c'; rename a run directory$"):
        compare_runs([tmp_path / "a", tmp_path / "a-b"], config, pytest.fail)
