"""Metrics of the user's own: functions and objects, by name on the command line and as they are in Python."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from support.console import write_lines
from support.scoring import score

from mtcpo.cli.commands import mtcpo
from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Candidate, Segment, segment_to_json
from mtcpo.metrics.base import NeuralMetric
from mtcpo.metrics.registry import code_files, is_higher_better, load_metric
from mtcpo.metrics.scorer import Scorer
from mtcpo.pipeline.recipe import load_recipe
from mtcpo.preferences.build import PrefsConfig

CODE = """
from mtcpo.metrics.base import NeuralMetric

def shortness(sources, hypotheses, references):
    return [-len(hypothesis) for hypothesis in hypotheses]

def errors(sources, hypotheses, references):
    return [abs(len(h) - len(r[0])) for h, r in zip(hypotheses, references)]

errors.higher_is_better = False

def too_few(sources, hypotheses, references):
    return [1.0]

def broken(sources, hypotheses, references):
    raise RuntimeError("no idea")

def nan(sources, hypotheses, references):
    return [float("nan")] * len(hypotheses)

number = 3

class Words(NeuralMetric):
    name = "words"
    needs_references = False

    def signature(self, num_references, sentence=False):
        return "words|v1"

    def score_candidates(self, segments):
        return [[len(c.text.split()) for c in s.candidates] for s in segments]

words = Words()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_scores.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield "python:own_scores"
    sys.modules.pop("own_scores", None)


def segment(*texts, references=("abcd",)):
    candidates = tuple(Candidate(f"s{n}", text) for n, text in enumerate(texts))
    return Segment("1", "de", "en", "Quelle", tuple(references), candidates=candidates)


def test_a_function_scores_and_declares_its_direction(own):
    metrics = [f"short={own}:shortness", f"errors={own}:errors", "chrf"]
    scorer = Scorer(metrics)
    [scored] = scorer.score([segment("abcdef", "abc")])
    assert [c.scores["short"] for c in scored.candidates] == [-6, -3]
    assert [c.scores["errors"] for c in scored.candidates] == [-2, -1]
    signature = scorer.signatures(1)["short"]
    assert signature.startswith("python:own_scores:shortness|sha256:")
    assert len(signature.rpartition(":")[2]) == 12


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("x={}:too_few", "1 score for 2 translations"),
        ("x={}:broken", r"your code raised RuntimeError at .*own_scores.py:\d+: no idea"),
        ("x={}:nan", "segment 1: x of s0 is nan"),
        ("x={}:number", "it is of type int; a metric is a function"),
        ("x={}:shortnes", r"unknown name in own_scores: 'shortnes' \(did you mean 'shortness'\?\)"),
        ("x=python:no_such_module:f", "your code raised ModuleNotFoundError"),
        ("x=python:no_function", "write it as python:package.module:name"),
        ("chrf={}:shortness", "needs a name that no metric of mtcpo has"),
        ("x={}:Words", "it is a class; a metric is a function"),
        ("x={}:words", "its own name is 'words'; write words=python:own_scores:words"),
    ],
)
def test_a_mistake_in_a_users_metric_is_one_line(own, spec, message):
    with pytest.raises(UserError, match=message):
        list(score([segment("abcdef", "abc")], [spec.format(own)]))


def test_build_prefs_runs_a_users_metric_only_with_allow_code(own, tmp_path):
    spec = f"short={own}:shortness"
    with pytest.raises(UserError, match="is custom Python code; pass --allow-code to run it"):
        load_section(PrefsConfig, {"metrics": [spec]}, "recipe")
    write_row_file(tmp_path / "c.jsonl", [segment_to_json(segment("abcdef", "abc"))])
    command = ["build-prefs", "c.jsonl", "--metric", spec, "--output", "p.jsonl"]
    with pytest.raises(UserError, match="--allow-code"):
        CliRunner().invoke(mtcpo, command, catch_exceptions=False, standalone_mode=False)
    assert "own_scores" not in sys.modules
    result = CliRunner().invoke(mtcpo, [*command, "--allow-code"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert '"margin": 3.0' in (tmp_path / "p.jsonl").read_text(encoding="utf-8")
    assert (tmp_path / "p-report.html").is_file()


# --- every command that takes a metric --------------------------------------------------------------------------------

HYPOTHESES = {"a.en": ["the cat", "a dog ran"], "b.en": ["the", "a dog ran off"]}
FILES = "--source s.de --reference r.en --src-lang de --tgt-lang en"


@pytest.fixture
def corpus(own, tmp_path):
    """Source, reference and the outputs of two systems, in the working directory."""
    for name, lines in ({"s.de": ["Katze", "Hund"], "r.en": ["the cat", "a dog ran"]} | HYPOTHESES).items():
        write_lines(tmp_path / name, lines)
    return tmp_path


def evaluate(*options):
    command = f"evaluate {FILES} --hyp a=a.en --hyp b=b.en --output-dir e --overwrite --set resamples=20".split()
    return CliRunner().invoke(mtcpo, [*command, *options], catch_exceptions=False, standalone_mode=False)


def test_evaluate_scores_with_a_users_metric_only_with_allow_code(own, corpus):
    metrics = ["--metric", f"short={own}:shortness", "--metric", f"errors={own}:errors", "--metric", "chrf"]
    with pytest.raises(UserError, match="is custom Python code; pass --allow-code to run it"):
        evaluate(*metrics)
    assert "own_scores" not in sys.modules
    evaluate(*metrics, "--allow-code")
    entry = json.loads((corpus / "e" / "evaluation.json").read_text(encoding="utf-8"))["pairs"]["de-en"]
    assert entry["metrics"]["short"]["signature"].startswith("python:own_scores:shortness|sha256:")
    assert (entry["metrics"]["short"]["higher_is_better"], entry["metrics"]["errors"]["higher_is_better"]) == (
        True,
        False,
    )
    scores = {name: system["metrics"] for name, system in entry["systems"].items()}
    assert (scores["a"]["short"]["score"], scores["b"]["short"]["score"]) == (-8, -8)
    # Printed as the function returns it, lower is better; segment scores are negated.
    assert (scores["a"]["errors"]["score"], scores["b"]["errors"]["score"]) == (0, 4)
    assert entry["systems"]["b"]["versus"]["a"]["errors"]["delta"] == 4
    [segments] = (corpus / "e" / "translations").rglob("segments.jsonl")
    rows = [json.loads(line) for line in segments.read_text(encoding="utf-8").splitlines()]
    assert [[c["scores"]["errors"] for c in row["candidates"]] for row in rows] == [[0, -4], [0, -4]]


def test_runs_that_were_evaluated_by_a_users_metric_can_be_compared(own, corpus):
    for run in ("one", "two"):
        evaluate("--metric", f"errors={own}:errors", "--allow-code")
        (corpus / "e").rename(corpus / run)
    command = ["evaluate", "--compare", "one", "two", "--output-dir", "both", "--set", "resamples=20"]
    CliRunner().invoke(mtcpo, command, catch_exceptions=False, standalone_mode=False)
    entry = json.loads((corpus / "both" / "evaluation.json").read_text(encoding="utf-8"))["pairs"]["de-en"]
    assert entry["systems"]["b"]["metrics"]["errors"]["score"] == 4


def test_a_dev_set_is_scored_by_a_users_metric_whose_direction_chooses_the_checkpoint(own, corpus):
    pytest.importorskip("accelerate")
    from mtcpo.training.arguments import training_setup
    from mtcpo.training.config import TrainConfig
    from mtcpo.training.dev_set import load_dev_set

    dev = {"source": "s.de", "references": ["r.en"], "src_lang": "de", "tgt_lang": "en"}
    dev["metrics"] = [f"errors={own}:errors", "chrf"]
    args = {"eval_strategy": "steps", "eval_steps": 7}
    with pytest.raises(UserError, match="pass --allow-code to run it"):
        load_section(TrainConfig, {"dev": dev, "args": args}, "train")
    config = load_section(TrainConfig, {"dev": dev, "args": args}, "train", allow_code=True)
    dev_set, _ = load_dev_set(config.dev)
    assert dev_set.score(HYPOTHESES["b.en"])["errors"] == 4
    arguments = training_setup(config, corpus / "out").args
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == ("errors", False)


def test_a_suite_runs_no_code_and_the_error_names_the_option_for_it(own, corpus):
    (corpus / "suite.toml").write_text(f'metrics = ["short={own}:shortness"]\ntest_sets = ["wmt22:de-en"]\n')
    command = ["evaluate", "--suite", "suite.toml", "--hyp", "a=a.en", "--allow-code"]
    with pytest.raises(UserError, match=r"is custom Python code, which a suite does not run; give it as --metric"):
        CliRunner().invoke(mtcpo, command, catch_exceptions=False, standalone_mode=False)
    assert "own_scores" not in sys.modules


RECIPE = """
[model]
name = "mt5"
[data]
source = "s.de"
references = ["r.en"]
src_lang = "de"
tgt_lang = "en"
hypotheses = {{ a = "a.en", b = "b.en" }}
[prefs]
metrics = ["short={0}:shortness"]
[train]
[evaluate]
metrics = ["errors={0}:errors"]
"""


def test_a_recipe_takes_a_users_metric_only_with_allow_code(own, corpus):
    (corpus / "r.toml").write_text(RECIPE.format(own), encoding="utf-8")
    with pytest.raises(UserError, match="pass --allow-code to run it"):
        load_recipe(corpus / "r.toml")
    recipe = load_recipe(corpus / "r.toml", allow_code=True)
    assert recipe.prefs.metrics == (f"short={own}:shortness",)
    assert recipe.evaluate.metrics == (f"errors={own}:errors",)
    # A stage runs again when the code of its metric changes.
    assert code_files(["chrf", *recipe.prefs.metrics, f"mbr:{recipe.prefs.metrics[0]}"]) == 2 * [
        str(corpus / "own_scores.py")
    ]


# --- in Python --------------------------------------------------------------------------------------------------------


def overlap(sources, hypotheses, references):
    return [len(set(h.split()) & set(r[0].split())) for h, r in zip(hypotheses, references, strict=True)]


class Letters(NeuralMetric):
    """A metric as an object: the letters of a translation."""

    name = "letters"
    needs_references = False

    def signature(self, num_references, sentence=False):
        return "letters"

    def score_candidates(self, segments):
        return [[sum(map(str.isalpha, c.text)) for c in s.candidates] for s in segments]


class WithModel:
    """A metric as an object that is called, with the version of its model."""

    name = "with-model"
    version = "3"
    higher_is_better = False

    def __call__(self, sources, hypotheses, references):
        return [len(hypothesis) for hypothesis in hypotheses]


def test_functions_and_objects_are_metrics_of_build_preferences():
    pytest.importorskip("datasets")
    from mtcpo import build_preferences

    rows = [segment("abcd efgh", "ab", references=("abcd efgh",))]
    metrics = [overlap, Letters(), WithModel(), "chrf"]
    made = build_preferences(rows, metrics, combine="zscore", weights={"with-model": 0.1})
    signatures = made.report["metrics"]
    assert list(signatures) == ["overlap", "letters", "with-model", "chrf"]
    assert signatures["overlap"].startswith(f"python:{__name__}:overlap|sha256:")
    assert signatures["letters"] == "letters"
    assert signatures["with-model"] == f"python:{__name__}:WithModel|version:3"
    [triplet] = made.triplets
    assert triplet["chosen_scores"]["overlap"] == 2
    assert triplet["chosen_scores"]["letters"] == 8
    assert triplet["chosen_scores"]["with-model"] == -9


def test_functions_and_objects_are_metrics_of_evaluate():
    pytest.importorskip("datasets")
    from mtcpo import evaluate

    rows = [segment(references=("the cat",)), segment(references=("a dog ran",))]
    document = evaluate(HYPOTHESES_BY_SYSTEM, rows, metrics=[overlap, Letters(), WithModel()], resamples=20)
    systems = document["pairs"]["de-en"]["systems"]
    assert systems["a"]["metrics"]["overlap"]["score"] == 2.5
    assert systems["b"]["metrics"]["letters"]["score"] == (3 + 10) / 2
    assert systems["b"]["metrics"]["with-model"]["score"] == (3 + 13) / 2
    assert "overlap" in str(document)


HYPOTHESES_BY_SYSTEM = {"a": HYPOTHESES["a.en"], "b": HYPOTHESES["b.en"]}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda sources, hypotheses, references: [], "a metric needs a name; set its attribute `name`"),
        (3, "should be a valid string"),
        (Letters, "it is a class; a metric is a function"),
    ],
)
def test_an_object_that_is_not_a_metric_is_refused(metric, message):
    with pytest.raises(UserError, match=message):
        load_section(PrefsConfig, {"metrics": [metric]}, "build_preferences")


def test_a_function_with_the_name_of_a_metric_is_refused():
    def chrf(sources, hypotheses, references):
        return [0.0 for _ in hypotheses]

    with pytest.raises(UserError, match="needs a name that no metric of mtcpo has"):
        load_section(PrefsConfig, {"metrics": [chrf]}, "build_preferences")


def test_the_same_function_has_the_same_signature_by_name_and_by_object(own):
    by_name = load_metric(f"shortness={own}:shortness", "en")
    function = sys.modules["own_scores"].shortness
    config = load_section(PrefsConfig, {"metrics": [function]}, "build_preferences")
    assert load_metric(config.metrics[0], "en").signature(1) == by_name.signature(1)
    assert not is_higher_better(f"errors={own}:errors")


def test_a_corpus_score_is_the_mean_of_the_segments(own):
    metric = load_metric(f"errors={own}:errors", "en")
    segments = [segment(references=("abc",)), segment(references=("abc",))]
    statistics = metric.statistics(["abc", "abcdef"], segments)
    np.testing.assert_array_equal(metric.segment_scores(statistics), [0, -3])
    assert float(metric.corpus_score(statistics.sum(axis=0))) == 1.5
