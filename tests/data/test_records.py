import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import (
    Candidate,
    Segment,
    Triplet,
    segment_from_json,
    segment_to_json,
    triplet_from_json,
    triplet_to_json,
)
from mtcpo.data.rows import read_segments

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scores = st.dictionaries(st.sampled_from(["chrf", "bleu", "comet"]), st.floats(allow_nan=False, allow_infinity=False))
candidates = st.builds(
    Candidate, text, text, scores, st.none() | st.floats(allow_nan=False, allow_infinity=False, max_value=0)
)
segments = st.builds(
    Segment,
    id=text,
    src_lang=st.just("de"),
    tgt_lang=st.just("en"),
    source=text,
    references=st.lists(text, max_size=3).map(tuple),
    doc=st.none() | text,
    candidates=st.lists(candidates, max_size=3).map(tuple),
)
messages = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": text}), min_size=1).map(tuple)
triplets = st.builds(
    Triplet,
    id=text,
    src_lang=st.just("de"),
    tgt_lang=st.just("en"),
    source=text,
    chosen=text,
    rejected=text,
    chosen_system=text,
    rejected_system=text,
    chosen_scores=scores,
    rejected_scores=scores,
    margin=st.floats(0, 100),
    prompt=st.none() | text | messages,
)


@given(segments)
def test_segments_are_read_from_json_as_written(segment):
    assert segment_from_json(json.loads(json.dumps(segment_to_json(segment))), "here") == segment


@given(triplets)
def test_triplets_are_read_from_json_as_written(triplet):
    assert triplet_from_json(json.loads(json.dumps(triplet_to_json(triplet))), "here") == triplet


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.zst", "s.parquet"])
def test_segments_with_different_metrics_are_read_from_files_as_written(tmp_path, name):
    first = Segment(
        "1", "de", "en", "Ja.", ("Yes.",), candidates=(Candidate("a", "Yes.", {"chrf": 1.0, "comet": 0.5}),)
    )
    second = Segment("2", "de", "en", "Nein.", ("No.",), candidates=(Candidate("a", "No.", {"chrf": 2.0}),))
    write_row_file(tmp_path / name, map(segment_to_json, [first, second]))
    assert list(read_segments(tmp_path / name)) == [first, second]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": None}, "field 'source' must be a string, not NoneType"),
        ({"references": "text"}, "field 'references' must be a list"),
        ({"references": [1]}, "references must be strings"),
        ({"candidates": ["text"]}, "a candidate must be an object"),
        ({"candidates": [{"system": "a"}]}, "no field 'text'; the row has system"),
        ({"candidates": [{"system": "a", "text": "b", "scores": [1]}]}, "field 'scores' must map"),
        (
            {"candidates": [{"system": "a", "text": "b", "scores": {"chrf": "x"}}]},
            "score 'chrf' must be a finite number",
        ),
        (
            {"candidates": [{"system": "a", "text": "b", "scores": {"chrf": float("nan")}}]},
            "score 'chrf' must be a finite number",
        ),
        ({"candidates": [{"system": "a", "text": "b", "logprob": True}]}, "logprob must be a finite number"),
    ],
)
def test_wrong_fields_are_refused_with_file_and_line(change, message):
    row = segment_to_json(Segment("1", "de", "en", "Ja.")) | change
    with pytest.raises(UserError, match=message) as caught:
        segment_from_json(row, "file.jsonl:7")
    assert str(caught.value).startswith("file.jsonl:7: ")


@pytest.mark.parametrize("field", ["id", "src_lang", "tgt_lang", "source"])
def test_a_missing_field_of_a_segment_is_refused(field):
    row = segment_to_json(Segment("1", "de", "en", "Ja."))
    del row[field]
    with pytest.raises(UserError, match=f"no field '{field}'"):
        segment_from_json(row, "f:1")


@pytest.mark.parametrize("prompt", [5, ["no message"], [{"role": "user"}]])
def test_a_wrong_prompt_of_a_triplet_is_refused(prompt):
    row = triplet_to_json(Triplet("1", "de", "en", "a", "b", "c")) | {"prompt": prompt}
    with pytest.raises(UserError, match="f:1: field 'prompt'"):
        triplet_from_json(row, "f:1")
