import sys

import pytest
from click.testing import CliRunner
from support.scoring import score

from mtcpo.cli.commands import mtcpo
from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment, segment_to_json
from mtcpo.data.row_files import write_row_file
from mtcpo.data.rows import read_segments
from mtcpo.metrics.registry import (
    load_candidate_metric,
    load_metric,
)
from mtcpo.metrics.scorer import Scorer
from mtcpo.preferences.build import PrefsConfig, build_preferences
from mtcpo.preferences.chooser import add_references

CODE = """
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
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_scores.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield "python:own_scores"
    sys.modules.pop("own_scores", None)


def segment(*texts, references=("abcd",)):
    made = tuple(Candidate(f"s{n}", text) for n, text in enumerate(texts))
    return Segment("1", "de", "en", "Quelle", tuple(references), candidates=made)


def test_a_function_scores_and_its_direction_is_known(own):
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
        ("x={}:too_few", "1 scores for 2 translations"),
        ("x={}:broken", r"your code raised RuntimeError at .*own_scores.py:\d+: no idea"),
        ("x={}:nan", "segment 1: x of s0 is nan"),
        ("x={}:number", "it is of type int; a metric is a function"),
        ("x={}:shortnes", r"unknown name in own_scores: 'shortnes' \(did you mean 'shortness'\?\)"),
        ("x=python:no_such_module:f", "your code raised ModuleNotFoundError"),
        ("x=python:no_function", "write it as python:package.module:name"),
        ("chrf={}:shortness", "needs a name that no metric of mtcpo has"),
    ],
)
def test_mistakes_in_functions(own, spec, message):
    with pytest.raises(UserError, match=message):
        list(score([segment("abcdef", "abc")], [spec.format(own)]))


def test_code_runs_only_where_the_command_line_allows_it(own, tmp_path):
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


def test_expected_utility_by_hand():
    made = segment("abcd", "abcd", "xyz", references=())
    [[first, second, third]] = load_candidate_metric("mbr:chrf", "en").score_candidates([made])
    # Against itself and its twin 100, against "xyz" nothing: two thirds; "xyz" agrees with itself alone.
    assert (first, second, third) == pytest.approx((200 / 3, 200 / 3, 100 / 3))


def test_expected_utility_equals_a_loop_over_the_utility():
    texts = ["the cat sat", "a cat sat down", "the cat", "dogs"]
    made = segment(*texts, references=())
    utility = load_metric("chrf", "en")
    expected = []
    for text in texts:
        scores = [utility.score_candidates([segment(text, references=(other,))])[0][0] for other in texts]
        expected.append(sum(scores) / 4)
    [found] = load_candidate_metric("mbr:chrf", "en").score_candidates([made])
    assert found == pytest.approx(expected)


def test_references_are_scored_and_are_no_pseudo_references():
    bare = segment("the cat sat", "a cat sat", references=("the cat was sitting",))
    [with_reference] = score([add_references(bare)], ["mbr:chrf"])
    [without] = score([bare], ["mbr:chrf"])
    assert [c.scores["mbr"] for c in with_reference.candidates[:2]] == [c.scores["mbr"] for c in without.candidates]
    assert 0 < with_reference.candidates[2].scores["mbr"] < 100


def test_a_new_candidate_changes_the_consensus_of_all():
    [scored] = score([segment("aaaa", "bbbb", references=())], ["mbr:chrf"])
    more = Segment("1", "de", "en", "Quelle", candidates=(*scored.candidates, Candidate("new", "aaaa")))
    [again] = score([more], ["mbr:chrf"])
    assert [c.scores["mbr"] for c in again.candidates] == pytest.approx([200 / 3, 100 / 3, 200 / 3])
    assert list(score([again], ["mbr:chrf"])) == [again]


def test_mbr_chooses_without_any_reference(tmp_path):
    made = segment("the cat sat", "the cat sat down", "dogs", "the cat sat there", references=())
    report = build_preferences(
        [made], PrefsConfig(metrics=("mbr:chrf",)), tmp_path / "p.jsonl", scored=tmp_path / "s.jsonl"
    )
    assert report.metrics["mbr"].startswith("mbr:chrf|nrefs:1|")
    [scored] = read_segments(tmp_path / "s.jsonl")
    scores = {c.text: c.scores["mbr"] for c in scored.candidates}
    assert report.chosen_scores["mbr"] == max(scores.values())
    assert report.rejected_scores["mbr"] == scores["dogs"]
