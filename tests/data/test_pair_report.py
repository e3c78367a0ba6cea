import json

import pytest
from pydantic import ValidationError
from support.pairs import REPORT_FILE, REPORT_SETTINGS
from support.runs import PREFS_REPORT

from mtcpo.core.errors import UserError
from mtcpo.data.pair_report import PairReport, read_pair_report, write_pair_report
from mtcpo.data.records import Triplet


def test_a_report_is_read_and_written_byte_for_byte(tmp_path):
    write_pair_report(tmp_path / "report.json", read_pair_report(REPORT_FILE))
    assert (tmp_path / "report.json").read_bytes() == REPORT_FILE.read_bytes()


def test_the_fields_of_a_report_are_typed():
    report = read_pair_report(REPORT_FILE)
    assert (report.segments, report.kept, report.considered) == (40, 48, 116)
    assert report.kept + sum(report.dropped.values()) == report.considered
    assert report.margin.quantiles["0.0"] <= report.margin.mean <= report.margin.quantiles["1.0"]
    assert set(report.histograms.scores) == {"clarity", "errors"}
    assert sum(report.histograms.margin.counts["pairs"]) == report.histograms.pairs == 48
    assert len(report.histograms.margin.edges) == len(report.histograms.margin.counts["pairs"]) + 1
    assert list(report.histograms.scores["errors"].counts) == ["chosen", "rejected"]
    assert all(isinstance(example, Triplet) for example in report.examples)
    assert report.settings["select"] == REPORT_SETTINGS["select"]
    assert "kept" not in report.settings
    with pytest.raises(ValidationError, match="frozen"):
        report.kept = 3


def test_numbers_leave_out_what_is_drawn():
    numbers = read_pair_report(REPORT_FILE).numbers()
    assert numbers.keys() == json.loads(REPORT_FILE.read_text(encoding="utf-8")).keys() - {"histograms", "examples"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"r\.json: no such file; mtcpo build-prefs writes it"),
        (b"{", r"r\.json: not JSON "),
        (b"\xff", r"r\.json: not JSON "),
        (b"[]", r"r\.json: a JSON object is needed, not list"),
        (b'{"kept": 3}', r"r\.json: segments: Field required; it is not a report of this version of mtcpo"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read_pair_report(tmp_path / "r.json")
    assert "\n" not in str(raised.value)


def test_a_wrong_field_is_named_with_its_place(tmp_path):
    row = PREFS_REPORT | {"margin": {"mean": "high", "quantiles": {}}}
    (tmp_path / "r.json").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(UserError, match=r"margin\.mean: Input should be a valid number"):
        read_pair_report(tmp_path / "r.json")


def test_settings_do_not_hide_behind_fields():
    report = PairReport.model_validate(PREFS_REPORT)
    assert report.settings == {"select": "best-worst", "min_margin": 5.0}
    assert report.to_json() == PREFS_REPORT
