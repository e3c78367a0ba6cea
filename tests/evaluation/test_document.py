"""evaluation.json as records: documents are written back as they were read, and every rule of direction is right."""

import json
import math
from pathlib import Path

import pytest
from support.runs import evaluate, german_outputs, german_test_set, read_json

from mtcpo.core.errors import UserError
from mtcpo.core.files import write_json
from mtcpo.evaluation.document import EvaluationDocument, MetricDescription, read_document, write_document
from mtcpo.report.page import write_report
from mtcpo.report.terminal_table import print_table

RESULTS = Path(__file__).parents[2] / "eval" / "results"
COMMITTED = sorted(RESULTS.rglob("evaluation*.json"))


@pytest.fixture(scope="module")
def entry():
    garden = german_test_set(60)
    return evaluate(garden, german_outputs(garden, {"start": 0.3, "tuned": 0.05, "spoilt": 0.9})).entry


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_committed_document_is_written_back_byte_for_byte(path, tmp_path):
    write_document(tmp_path / "evaluation.json", read_document(path))
    assert (tmp_path / "evaluation.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_committed_document_has_a_table_and_a_report(path, tmp_path, capsys):
    # Some are older than the second test, the clusters and the scores by length.
    (tmp_path / "evaluation.json").write_bytes(path.read_bytes())
    assert "BLEU" in write_report(tmp_path).read_text(encoding="utf-8")
    print_table(read_document(path))
    assert "BLEU" in capsys.readouterr().out


def test_fields_that_we_do_not_know_are_kept(entry, tmp_path):
    value = EvaluationDocument(pairs={"en-de": entry}).to_json()
    value["pairs"]["en-de"]["systems"]["tuned"]["judged_by_people"] = [1, None]
    value["later"] = "field"
    write_json(tmp_path / "evaluation.json", value)
    document = read_document(tmp_path / "evaluation.json")
    write_document(tmp_path / "again.json", document)
    assert read_json(tmp_path / "again.json") == json.loads(json.dumps(value))


def test_the_json_object_has_lists_and_keeps_values_that_are_not_numbers(entry):
    value = EvaluationDocument(pairs={"en-de": entry}).to_json()
    assert value == json.loads(json.dumps(value))
    start = entry.systems["start"].model_copy(update={"length_ratio": float("nan")})
    changed = entry.model_copy(update={"systems": {"start": start}})
    # Not null, which would be written without a word: JSON has no NaN, and `write_json` refuses it.
    assert math.isnan(
        EvaluationDocument(pairs={"en-de": changed}).to_json()["pairs"]["en-de"]["systems"]["start"]["length_ratio"]
    )


def test_lower_ter_is_better(entry):
    assert entry.score("tuned", "ter").score < entry.score("start", "ter").score < entry.score("spoilt", "ter").score
    assert entry.ranked("ter") == ("tuned", "start", "spoilt")
    assert entry.best("ter") == {"tuned"}
    assert entry.verdict("tuned", "ter") == "better"
    assert entry.verdict("spoilt", "ter") == "worse"
    assert entry.verdict("start", "ter") == "same"


def test_higher_chrf_is_better(entry):
    assert entry.score("tuned", "chrf").score > entry.score("start", "chrf").score > entry.score("spoilt", "chrf").score
    assert entry.ranked("chrf") == ("tuned", "start", "spoilt")
    assert entry.best("chrf") == {"tuned"}
    assert entry.verdict("tuned", "chrf") == "better"
    assert entry.verdict("spoilt", "chrf") == "worse"


def test_stored_scores_are_printed_in_the_metrics_direction():
    ter = MetricDescription(signature="s", higher_is_better=False, percent=True)
    bleu = MetricDescription(signature="s", higher_is_better=True, percent=True)
    assert (ter.as_printed(-40.0), bleu.as_printed(40.0)) == (40.0, 40.0)
    assert f"{ter.as_printed(0.0):.1f} {bleu.as_printed(-0.0):.1f}" == "0.0 0.0"


def test_equal_systems_rank_in_their_order_and_share_the_best():
    garden = german_test_set(20)
    text = german_outputs(garden, {"start": 0.3})["start"]
    entry = evaluate(garden, {"one": text, "two": text}).entry
    assert entry.ranked("bleu") == entry.ranked("ter") == ("one", "two")
    assert entry.best("bleu") == entry.best("ter") == {"one", "two"}


def test_one_system_alone_is_not_the_best():
    garden = german_test_set(5)
    assert evaluate(garden, german_outputs(garden, {"start": 0.3})).entry.best("bleu") == frozenset()


def test_an_invalid_document_is_refused_with_the_field(entry):
    value = EvaluationDocument(pairs={"en-de": entry}).to_json()
    value["pairs"]["en-de"]["systems"]["tuned"]["metrics"]["bleu"]["score"] = "much"
    message = r"^here: not an evaluation\.json of mtcpo \(pairs\.en-de\.systems\.tuned\.metrics\.bleu\.score: "
    with pytest.raises(UserError, match=message):
        EvaluationDocument.from_json(value, "here")
