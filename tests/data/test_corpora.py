"""Reading corpora."""

import gzip
import os
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.corpora import corpus, write

from mtcpo.core.errors import UserError
from mtcpo.data.config import CorpusConfig
from mtcpo.data.corpora import Drops, parse_named_files, read_corpus
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Candidate, Segment, segment_to_json


def test_line_aligned_text_is_read_as_segments(folder):
    write("s.de", "eins", "zwei")
    write("r.en", "one", "two")
    write("r2.en", "One.", "Two.")
    write("h.en", "uno", "dos")
    segments = corpus("s.de", references=["r.en", "r2.en"], hypotheses={"es": "h.en"})
    assert segments[1] == Segment("s.de:2", "de", "en", "zwei", ("two", "Two."), candidates=(Candidate("es", "dos"),))
    assert len(segments) == 2


def test_monolingual_text_needs_no_reference(folder):
    write("s.de", "eins")
    assert corpus("s.de") == [Segment("s.de:1", "de", "en", "eins")]


def test_compressed_text_is_read(folder):
    with gzip.open("s.de.gz", "wt", encoding="utf-8") as file:
        file.write("grün\n")
    assert [segment.source for segment in corpus("s.de.gz")] == ["grün"]


def test_unequal_line_counts_are_refused_before_the_first_line(folder):
    write("s.de", "eins", "zwei", "drei")
    write("r.en", "one", "two", "three")
    write("h.en", "uno")
    config = CorpusConfig(source="s.de", references=("r.en",), hypotheses={"a": "h.en"}, src_lang="de", tgt_lang="en")
    with pytest.raises(UserError, match=r"line counts differ: [^ ]*s\.de has 3, [^ ]*h\.en has 1; ") as caught:
        next(read_corpus(config))
    assert "\n" not in str(caught.value)


def test_unequal_lengths_of_pipes_are_refused_at_their_end(folder):
    write("s.de", "eins", "zwei")
    os.mkfifo("pipe")
    writer = threading.Thread(target=write, args=("pipe", "one", "two", "three", "four"))
    writer.start()
    with pytest.raises(UserError, match=r"s\.de has 2, .*pipe has 4"):
        corpus("s.de", references=["pipe"])
    writer.join()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n\ufeff", exclude_categories=["Cs"]), max_size=8), min_size=1)
)
def test_every_line_is_yielded_or_counted_and_stays_aligned(tmp_path, lines):
    source, reference = tmp_path / "s.txt", tmp_path / "r.txt"
    write(source, *lines)
    write(reference, *map(str, range(len(lines))))
    drops = Drops()
    segments = corpus(str(source), drops, references=[str(reference)])
    assert len(segments) + drops.total() == len(lines)
    assert all(lines[int(segment.references[0])] == segment.source for segment in segments)
    assert drops["empty_source"] == sum(not line.strip() for line in lines)


def test_empty_sources_are_kept_on_request(folder):
    write("s.de", "eins", "", "drei")
    config = CorpusConfig(source="s.de", src_lang="de", tgt_lang="en")
    assert [segment.source for segment in read_corpus(config, keep_empty=True)] == ["eins", "", "drei"]


def test_skip_and_take_count_rows_before_drops(folder):
    write("s.de", *"abcdef")
    assert [segment.id for segment in corpus("s.de", skip=1, take=3)] == ["s.de:2", "s.de:3", "s.de:4"]
    with pytest.raises(UserError, match=r"it has no segments after the first 6 rows"):
        corpus("s.de", skip=6)


@pytest.mark.parametrize("name", ["e.txt", "e.jsonl", "e.tsv", "e.jsonl.gz"])
def test_an_empty_file_is_refused(folder, name):
    (gzip.open(name, "wb") if name.endswith("gz") else open(name, "wb")).close()  # noqa: PTH123, SIM115
    with pytest.raises(UserError, match=f"{name}: it has no segments; a corpus needs at least one"):
        corpus(name)


@pytest.mark.parametrize("name", ["none.de", "./none", "none.jsonl", "none.parquet", "none.tsv", "/no/where"])
def test_a_missing_file_is_refused(folder, name):
    with pytest.raises(UserError, match="no such file"):
        corpus(name)


def test_a_missing_reference_file_is_refused(folder):
    write("s.de", "eins")
    with pytest.raises(UserError, match=r"r\.en: no such file"):
        corpus("s.de", references=["r.en"])


def test_invalid_utf8_in_any_aligned_file_is_refused(folder):
    write("s.de", "eins", "zwei")
    (folder / "r.en").write_bytes(b"one\nt\xe9o\n")
    with pytest.raises(UserError, match=r"r\.en:2: not UTF-8"):
        corpus("s.de", references=["r.en"])


def test_plain_text_needs_languages_that_exist(folder):
    write("s.de", "eins")
    with pytest.raises(UserError, match="plain text does not name its languages"):
        corpus("s.de", pair={})
    with pytest.raises(UserError, match=r"test: src_lang: unknown language 'german' \(did you mean 'de'\?\)"):
        corpus("s.de", pair={"src_lang": "german", "tgt_lang": "en"})
    assert corpus("s.de", pair={"src_lang": "deu_Latn", "tgt_lang": "eng"})[0].src_lang == "de"


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.gz", "s.jsonl.zst", "s.parquet"])
def test_our_segments_are_read_as_they_were_written(folder, name):
    segments = [
        Segment(f"{n}", "de", "en", f"Satz {n}", (f"ref {n}",), "doc", (Candidate("a", "x", {"chrf": n / 2}, -1.5),))
        for n in range(3)
    ]
    write_row_file(folder / name, map(segment_to_json, segments))
    assert corpus(name, pair={}) == segments
    assert corpus(name) == segments
    with pytest.raises(UserError, match="the segment's language is 'de', not 'fr' as given"):
        corpus(name, pair={"src_lang": "fr", "tgt_lang": "en"})


def test_rows_of_columns_keep_their_ids(folder):
    write_row_file(folder / "c.jsonl", [{"id": 7, "de": "Ja.", "en": "Yes.", "d": "x"}, {"de": "Nein.", "en": "No."}])
    first, second = corpus("c.jsonl", source_column="de", reference_columns=["en"], doc_column="d")
    assert (first.id, first.doc, first.references) == ("7", "x", ("Yes.",))
    assert second.id == "c.jsonl:2"
    with pytest.raises(UserError, match="the row does not name its languages"):
        corpus("c.jsonl", pair={})


def test_translation_rows_of_other_directions_are_counted(folder):
    row = {"language_pair": "de-en", "de": "Ja.", "en": "Yes.", "alma_en": "Yea.", "required_directions": ""}
    rows = [{"translation": row}, {"translation": row | {"required_directions": "en-de"}}]
    write_row_file(folder / "alma.jsonl", rows)
    drops = Drops()
    assert [segment.id for segment in corpus("alma.jsonl", drops)] == ["alma.jsonl:1:de-en"]
    assert drops == {"other_direction": 1}
    assert len(corpus("alma.jsonl", pair={})) == 3


def test_reference_files_need_a_plain_text_source(folder):
    write("t.tsv", "source", "a")
    with pytest.raises(UserError, match="need a plain-text source"):
        corpus("t.tsv", references=["r.en"])


def test_named_files_are_parsed_and_checked():
    assert parse_named_files(["a=x.txt", "b=dir/y=z.txt"]) == {"a": "x.txt", "b": "dir/y=z.txt"}
    with pytest.raises(UserError, match=r"two systems are named 'a' \(x\.txt and y\.txt\)"):
        parse_named_files(["a=x.txt", "a=y.txt"])
    for wrong in ("x.txt", "a="):
        with pytest.raises(UserError, match="write it as NAME=FILE"):
            parse_named_files([wrong])
    for wrong in ("../up=x", "=x", ".hidden=x", "a/b=x", "a\nb=x", "C:=x"):
        with pytest.raises(UserError, match="system name"):
            parse_named_files([wrong])
