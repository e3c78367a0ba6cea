"""XCOMET's errors, from the model to the files and the page; all with a real, tiny checkpoint."""

import json
import re
from dataclasses import asdict, replace
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.browser import Browser
from support.comet import comet_segments, load_with_comet, made_up_sentences
from support.console import exit_code, mistake, run, write_lines

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, ErrorSpan, segment_from_json, segment_to_json
from mtcpo.data.rows import read_segments
from mtcpo.metrics.comet import metric as comet
from mtcpo.metrics.registry import load_metric
from mtcpo.preferences.build import PrefsConfig, build_preferences
from mtcpo.report.side_by_side import mark_differences, mark_errors, select_rows

FILES = "--source s.de --reference r.en --hyp first=a.en --hyp second=b.en --src-lang de --tgt-lang en"


def by_comet(folder, rows):
    """Return the error spans that COMET's own `predict` finds in rows of (source, translation, reference)."""
    samples = [dict(zip(("src", "mt", "ref"), row, strict=True)) for row in rows]
    found = load_with_comet(folder).predict(samples, batch_size=9, gpus=0, progress_bar=False).metadata.error_spans
    return [[without_confidence(error) for error in row_spans] for row_spans in found]


def without_confidence(error):
    return {name: error[name] for name in ("text", "severity", "start", "end")}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, comet_models):
    """A folder with two systems' outputs, evaluated with XCOMET and chrF into `e`."""
    folder, patch = tmp_path_factory.mktemp("spans"), pytest.MonkeyPatch()
    texts = {name: made_up_sentences(40, seed) for seed, name in enumerate(("s.de", "r.en", "a.en", "b.en"))}
    texts["b.en"][0] = "<script>alert('b')</script> ka lo mi nu pe ra so & ti."
    for name, lines in texts.items():
        write_lines(folder / name, lines)
    command = (
        f"evaluate {FILES} --metric chrf --metric xcomet:{comet_models['xcomet']} --output-dir e --set resamples=20"
    )
    with patch.context() as patched:
        patched.chdir(folder)
        assert exit_code(*command.split()) == 0
    assert (folder / "e" / "report.html").is_file()
    return folder, texts, command.split()


def spans_of(folder, system):
    lines = (folder / "e" / "spans" / "s" / "de-en" / f"{system}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.comet
@pytest.mark.parametrize(("system", "file"), [("first", "a.en"), ("second", "b.en")])
def test_the_error_spans_of_each_system_equal_comets(evaluated, comet_models, system, file):
    folder, texts, _ = evaluated
    lines = spans_of(folder, system)
    assert [line["id"] for line in lines] == [f"s:de-en:{number}" for number in range(1, 41)]
    assert [line["text"] for line in lines] == texts[file]
    found = [[without_confidence(error) for error in line["errors"]["xcomet"]] for line in lines]
    assert found == by_comet(comet_models["xcomet"], zip(texts["s.de"], texts[file], texts["r.en"], strict=True))
    assert sum(map(len, found)) > 5


@pytest.mark.comet
def test_errors_are_counted_by_severity(evaluated):
    folder, _, _ = evaluated
    entry = json.loads((folder / "e" / "evaluation.json").read_text())["pairs"]["de-en"]
    for system, row in entry["systems"].items():
        errors = [error["severity"] for line in spans_of(folder, system) for error in line["errors"]["xcomet"]]
        assert row["metrics"]["xcomet"]["errors_per_segment"] == {
            severity: errors.count(severity) / 40 for severity in ("minor", "major", "critical")
        }
        assert "errors_per_segment" not in row["metrics"]["chrf"]


@pytest.mark.comet
def test_error_spans_come_from_the_cache_and_survive_compare(evaluated, capsys, monkeypatch):
    folder, _, command = evaluated
    monkeypatch.chdir(folder)
    monkeypatch.setattr(comet.InProcess, "predict", None)  # every score and every error is there
    again = run(capsys, *[{"e": "again"}.get(word, word) for word in command], "--score-cache", "e/scores.sqlite3")
    assert again.code == 0, again.err
    for file in (folder / "e" / "spans").rglob("*.jsonl"):
        assert (folder / "again" / file.relative_to(folder / "e")).read_bytes() == file.read_bytes()
    compared = run(capsys, *["evaluate", "--compare", "e", "again", "--output-dir", "both", "--set", "resamples=20"])
    assert compared.code == 0, compared.err
    both = [json.loads((folder / name / "evaluation.json").read_text())["pairs"]["de-en"] for name in ("both", "e")]
    counts = [entry["systems"]["second"]["metrics"]["xcomet"]["errors_per_segment"] for entry in both]
    assert counts[0] == counts[1]
    bare = run(capsys, *f"evaluate {FILES} --metric chrf --overwrite --output-dir again".split())
    assert bare.code == 0, bare.err
    assert not list((folder / "again" / "spans").rglob("*.jsonl"))
    assert mistake(capsys, *f"evaluate {FILES} --hyp ../x=a.en --metric chrf --output-dir no".split())
    assert not (folder / "no").exists()


# --- on the page -----------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.comet
@pytest.mark.parametrize("dark", [False, True])
def test_error_spans_are_underlined_by_severity_in_a_browser(evaluated, dark):
    folder, _, _ = evaluated
    with Browser(dark=dark) as opened:
        opened.open(folder / "e" / "report.html")
        shown, legend = (
            opened.evaluate(
                f"[...document.querySelectorAll('{place} .error')].map(node => {{ const style = getComputedStyle(node);"
                "return [node.classList[1], style.textDecorationLine, style.textDecorationStyle, node.title] })"
            )
            for place in (".segment", "summary")
        )
        text = opened.evaluate("document.querySelector('.segment [data-system] .text').textContent")
        assert opened.problems == []
    # Not by colour alone: each severity has a line of its own kind.
    lines = {"minor": "dotted", "major": "solid", "critical": "double"}
    assert [(severity, line, style) for severity, line, style, _ in legend] == [
        (severity, "underline", style) for severity, style in lines.items()
    ]
    assert len(shown) > 5
    assert all((line, style) == ("underline", lines[severity]) for severity, line, style, _ in shown)
    assert all(re.fullmatch(rf"{severity} error, confidence \d+%", title) for severity, _, _, title in shown)
    assert text.startswith("<script>alert('b')</script>")


@pytest.mark.browser
@pytest.mark.comet
def test_error_spans_are_underlined_in_print_and_counted_in_the_legend(evaluated):
    folder, _, _ = evaluated
    page = (folder / "e" / "report.html").read_text(encoding="utf-8")
    counts = json.loads((folder / "e" / "evaluation.json").read_text())["pairs"]["de-en"]["systems"]["first"]
    row = "".join(f"<td>{mean:.2f}</td>" for mean in counts["metrics"]["xcomet"]["errors_per_segment"].values())
    assert f'<th scope="row"><bdi>first</bdi></th>{row}' in page
    assert "<script>alert" not in page
    with Browser() as opened:
        opened.call("Emulation.setEmulatedMedia", media="print")
        opened.open(folder / "e" / "report.html")
        style = "getComputedStyle(document.querySelector('.segment .error')).textDecorationLine"
        assert opened.evaluate(style) == "underline"


def error(start, end, severity="minor", confidence=0.5):
    return ErrorSpan("", start, end, severity, confidence)


def test_marked_errors_worked_by_hand():
    first = '<span class="error minor" title="minor error, confidence 50%">a&lt;</span>'
    assert mark_errors("xa<b", [error(1, 3)]) == f"x{first}b"
    before, after = mark_differences("der Hund", "der Kater", ((error(4, 8, "major"),), ()))
    whole = '<span class="error major" title="major error, confidence 50%">Hund</span>'
    assert (before, after) == (f'der <mark class="gone">{whole}</mark>', 'der <mark class="new">Kater</mark>')
    # One that reaches over the end of a difference is in two parts, since elements nest.
    before, _ = mark_differences("a b c", "a x c", ((error(2, 5),), ()))
    assert re.sub(' title="[^"]*"', "", before) == (
        'a <mark class="gone"><span class="error minor">b</span></mark><span class="error minor"> c</span>'
    )
    odd = mark_errors("ab", [ErrorSpan("", 0, 1, '"><script>', 1.0)])
    assert "<script>" not in odd


SPANS = st.lists(st.builds(error, st.integers(-2, 30), st.integers(-2, 40), st.sampled_from(["minor", "<b>"])))


@given(st.text("ab <&\"' 私。", max_size=30), st.text("ab <&\"' 私。", max_size=30), SPANS, SPANS)
def test_marking_errors_does_not_change_the_text(before, after, of_first, of_second):
    marked = mark_differences(before, after, (of_first, of_second))
    assert [unescape(re.sub(r"</?(mark|span)[^>]*>", "", str(text))) for text in marked] == [before, after]
    inside = "".join(re.findall(r"<span[^>]*>([^<]*)</span>", str(mark_errors(before, of_first))))
    covered = {place for span in of_first for place in range(max(span.start, 0), min(span.end, len(before)))}
    assert len(unescape(inside)) == len(covered)


@pytest.mark.comet
def test_only_error_spans_of_the_chosen_metric_are_marked(evaluated):
    segments = list(read_segments(evaluated[0] / "e" / "translations" / "s" / "de-en" / "segments.jsonl"))
    shown, bare = (
        "".join(str(o.text) for row in select_rows(segments, "first", ["second"], "chrf", by).rows for o in row.outputs)
        for by in ("xcomet", None)
    )
    assert 'class="error' in shown
    assert 'class="error' not in bare


# --- in records ------------------------------------------------------------------------------------------------------


@pytest.mark.comet
def test_build_prefs_keeps_errors_with_the_scored_candidates(comet_models, tmp_path):
    config = PrefsConfig(metrics=(f"xcomet:{comet_models['xcomet']}", "chrf"), combine="zscore", workers=1)
    build_preferences(comet_segments(15), config, tmp_path / "p.jsonl", scored=tmp_path / "s.jsonl")
    scored = list(read_segments(tmp_path / "s.jsonl"))
    rows = [(s.source, c.text, s.references[0]) for s in scored for c in s.candidates]
    found = [[without_confidence(asdict(e)) for e in c.errors["xcomet"]] for s in scored for c in s.candidates]
    assert found == by_comet(comet_models["xcomet"], rows)
    assert {name for s in scored for c in s.candidates for name in c.errors} == {"xcomet"}
    assert [segment_from_json(segment_to_json(s), "here") for s in scored] == scored
    build_preferences(
        comet_segments(15), PrefsConfig(metrics=("chrf",)), tmp_path / "q.jsonl", scored=tmp_path / "t.jsonl"
    )
    assert '"errors"' not in (tmp_path / "t.jsonl").read_text()


@pytest.mark.comet
def test_whether_a_model_finds_error_spans_is_known_before_it_is_loaded(comet_models):
    assert {
        kind
        for kind in comet_models
        if kind != "encoder" and load_metric(f"comet:{comet_models[kind]}", "en").finds_error_spans
    } == {"xcomet"}
    assert not load_metric("chrf", "en").finds_error_spans


@pytest.mark.comet
def test_with_several_references_the_error_spans_are_those_of_the_first(comet_models):
    metric = load_metric(f"xcomet:{comet_models['xcomet']}", "en")
    [one, two] = comet_segments(2)
    both = replace(one, references=(*one.references, *two.references))
    alone = [replace(one, references=(reference,)) for reference in both.references]
    [[found, *_], [first, *_], [second, *_]] = metric.score_with_spans([both, *alone])
    assert found.score == pytest.approx((first.score + second.score) / 2, abs=1e-6)
    assert found.errors == first.errors


def test_malformed_error_spans_are_refused():
    row = {"id": "1", "src_lang": "de", "tgt_lang": "en", "source": "x"}
    for wrong in ([1], {"xcomet": [{"text": "x"}]}, {"xcomet": 3}):
        candidates = [{"system": "a", "text": "b", "errors": wrong}]
        with pytest.raises(
            UserError, match="f:1: field 'errors' must map metric names to lists of objects with text, st"
        ):
            segment_from_json(row | {"candidates": candidates}, "f:1")
    # Parquet gives every row all fields.
    made = segment_from_json(row | {"candidates": [{"system": "a", "text": "b", "errors": {"x": None}}]}, "f:1")
    assert made.candidates == (Candidate("a", "b"),)
