"""Files of candidates that are resumed, and settings."""

import json

import pytest
from support.corpora import HEADED
from support.models import PAIRS
from support.translation import english_segments, quick_search

from mtcpo.core.errors import UserError
from mtcpo.data.file_formats import registry
from mtcpo.data.file_formats.registry import read_row_file
from mtcpo.data.records import Candidate, Segment
from mtcpo.data.rows import read_segments
from mtcpo.translation import translate as translation
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.transformers import GenerateEngine
from mtcpo.translation.translate import translate_texts, translate_to_file


def texts_of(found):
    return [[candidate.text for candidate in candidates] for candidates in found]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(translation, "WINDOW", 4)


class StoppingEngine:
    """An engine that is interrupted in its n-th window."""

    def __init__(self, engine, windows):
        self.engine, self.windows = engine, windows
        self.name, self.system, self.too_long = engine.name, engine.system, engine.too_long

    def translate(self, window, settings, draw=0):
        if self.windows == 0:
            raise KeyboardInterrupt
        self.windows -= 1
        return self.engine.translate(window, settings, draw)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_an_interrupted_file_resumes_to_the_same_bytes(engine, name, tmp_path):
    tiny = engine("mt5", sharpen=3.0)
    settings = quick_search(sampling="epsilon", num_candidates=2, max_new_tokens=6)
    (tmp_path / "whole").mkdir()
    figures = translate_to_file(tiny, english_segments(15), settings, tmp_path / "whole" / name)
    assert figures == {"segments": 15, "candidates": 30, "resumed_at": 0}
    output = tmp_path / name
    for windows, done in ((2, 8), (1, 12)):
        with pytest.raises(KeyboardInterrupt):
            translate_to_file(StoppingEngine(tiny, windows), iter(english_segments(15)), settings, output)
        assert not output.exists()
        finished = sorted((tmp_path / f".{name}.windows").glob("*.jsonl"))
        # The first line of a window has its counts.
        assert sum(len(path.read_bytes().splitlines()) - 1 for path in finished) == done
    # A kill in the middle of a write: a window that is not whole, and half a line.
    (tmp_path / f".{name}.windows/.000003.jsonl.partial").write_bytes(b'{"window": 3}\n{"id": ')
    assert translate_to_file(tiny, iter(english_segments(15)), settings, output) == {
        "segments": 15, "candidates": 30, "resumed_at": 12,
    }  # fmt: skip
    assert output.read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "whole"])
    found = list(read_segments(output))
    assert [segment.id for segment in found] == [str(n) for n in range(15)]
    assert [len(segment.candidates) for segment in found] == [2] * 15


def test_candidates_in_a_new_format_are_written_by_its_entry(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "ROW_FORMATS", (*registry.ROW_FORMATS, HEADED))
    output = tmp_path / "out.headed"
    translate_to_file(engine("mt5"), english_segments(2), quick_search(), output)
    assert output.read_text().startswith("rows\n")
    assert [len(segment.candidates) for segment in read_segments(output)] == [1, 1]
    assert list(tmp_path.iterdir()) == [output]


def test_an_output_that_cannot_be_written_is_refused_before_translating(engine, tmp_path):
    def unread():
        pytest.fail("a segment was read")
        yield

    with pytest.raises(
        UserError, match=r"out\.csv: mtcpo reads this format but cannot write it; use a name in \.jsonl"
    ):
        translate_to_file(engine("mt5"), unread(), quick_search(), tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_windows")
def test_an_unfinished_file_of_other_settings_model_or_sources_is_refused(engine, tmp_path):
    tiny = engine("mt5")
    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        translate_to_file(StoppingEngine(tiny, 1), english_segments(9), quick_search(), output)
    for other_engine, settings in (
        (tiny, quick_search(seed=1)),
        (GenerateEngine(tiny.loaded, "other"), quick_search()),
    ):
        with pytest.raises(UserError, match=r"unfinished run with a different model or settings; .* --overwrite"):
            translate_to_file(other_engine, english_segments(9), settings, output)
    with pytest.raises(UserError, match=r"000000.jsonl:2: the unfinished run had different sources"):
        translate_to_file(tiny, english_segments(9)[::-1], quick_search(), output)
    with pytest.raises(UserError, match=r"000000.jsonl: the unfinished run had different sources"):
        translate_to_file(tiny, english_segments(3), quick_search(), output)
    figures = translate_to_file(tiny, english_segments(9), quick_search(seed=1), output, overwrite=True)
    assert figures["resumed_at"] == 0
    with pytest.raises(UserError, match=r"out\.jsonl exists; pass --overwrite"):
        translate_to_file(tiny, english_segments(9), quick_search(), output)


def test_no_source_is_an_error_and_leaves_no_file(engine, tmp_path):
    with pytest.raises(UserError, match="there is no source to translate"):
        translate_to_file(engine("mt5"), [], quick_search(), tmp_path / "out.jsonl")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_windows")
def test_candidates_in_the_input_are_kept(engine, tmp_path):
    tiny = engine("mt5")
    first = Candidate("other", "Mühle", {"chrf": 12.5})
    brought = [Segment(s.id, "en", "de", s.source, ("Die Mühle",), "doc", (first,)) for s in english_segments(5)]
    figures = translate_to_file(tiny, brought, quick_search(num_candidates=2), tmp_path / "out.jsonl")
    assert figures["candidates"] == 10, "only those that were made count"
    for _, row in read_row_file(tmp_path / "out.jsonl"):
        assert [candidate["system"] for candidate in row["candidates"]] == ["other", "tiny-beam-1", "tiny-beam-2"]
        assert (row["references"], row["doc"]) == (["Die Mühle"], "doc")
    texts = translate_texts(tiny, brought, quick_search())
    assert len(texts) == 5
    assert "Mühle" not in texts


@pytest.mark.usefixtures("small_windows")
def test_each_window_has_its_own_seed(engine):
    tiny = engine("mt5", sharpen=3.0)
    same = [Segment(str(n), "en", "de", PAIRS[0][0]) for n in range(12)]
    settings = quick_search(sampling="nucleus", batch_size=4)
    found = translate_texts(tiny, same, settings)
    assert len({tuple(found[i : i + 4]) for i in (0, 4, 8)}) == 3
    assert translate_texts(tiny, same, settings) == found


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_candidates": 8}, "beam search with 4 beams cannot give 8 candidates; raise num_beams or choose"),
        ({"sampling": "greedy"}, "sampling"),
        ({"epsilon": 0}, "epsilon"),
        ({"top_p": 1.5}, "top_p"),
        ({"diversity_penalty": 0}, "diversity_penalty"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TranslateConfig(**values)
    assert json.loads(TranslateConfig().model_dump_json())["num_beams"] == 4
