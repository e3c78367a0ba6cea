import csv
import gzip
import os
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtcpo.config import load_section
from mtcpo.corpora import (
    CorpusConfig,
    Drops,
    parse_named_files,
    read_corpus,
    read_rows,
    read_triplets,
    triplets_to_trl,
)
from mtcpo.errors import UserError
from mtcpo.files import write_json_lines
from mtcpo.records import Candidate, Segment, Triplet, segment_to_json, triplet_to_json


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, *lines):
    with open(name, "w", encoding="utf-8", newline="\n") as file:  # noqa: PTH123
        file.writelines(line + "\n" for line in lines)


def corpus(source, drops=None, **settings):
    pair = {"src_lang": "de", "tgt_lang": "en"} if "pair" not in settings else settings.pop("pair")
    return list(read_corpus(load_section(CorpusConfig, {"source": source, **pair, **settings}, "test"), drops))


def test_line_aligned_text(folder):
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


def test_compressed_text(folder):
    with gzip.open("s.de.gz", "wt", encoding="utf-8") as file:
        file.write("grün\n")
    assert [segment.source for segment in corpus("s.de.gz")] == ["grün"]


def test_unequal_line_counts_name_files_and_counts_before_anything_is_read(folder):
    write("s.de", "eins", "zwei", "drei")
    write("r.en", "one", "two", "three")
    write("h.en", "uno")
    config = CorpusConfig(source="s.de", references=("r.en",), hypotheses={"a": "h.en"}, src_lang="de", tgt_lang="en")
    with pytest.raises(UserError, match=r"line counts differ: .*s\.de has 3, .*r\.en has 3, .*h\.en has 1; ") as caught:
        next(read_corpus(config))
    assert "\n" not in str(caught.value)


def test_unequal_lengths_of_pipes_are_seen_at_their_end(folder):
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
def test_every_line_is_yielded_or_counted_and_alignment_holds(tmp_path, lines):
    source, reference = tmp_path / "s.txt", tmp_path / "r.txt"
    write(source, *lines)
    write(reference, *map(str, range(len(lines))))
    drops = Drops()
    segments = corpus(str(source), drops, references=[str(reference)])
    assert len(segments) + drops.total() == len(lines)
    assert all(lines[int(segment.references[0])] == segment.source for segment in segments)
    assert drops["empty_source"] == sum(not line.strip() for line in lines)


def test_empty_sources_may_be_kept(folder):
    write("s.de", "eins", "", "drei")
    config = CorpusConfig(source="s.de", src_lang="de", tgt_lang="en")
    assert [segment.source for segment in read_corpus(config, keep_empty=True)] == ["eins", "", "drei"]


def test_skip_and_take_count_rows(folder):
    write("s.de", *"abcdef")
    assert [segment.id for segment in corpus("s.de", skip=1, take=3)] == ["s.de:2", "s.de:3", "s.de:4"]
    with pytest.raises(UserError, match=r"no segment in it after the first 6 rows"):
        corpus("s.de", skip=6)


@pytest.mark.parametrize("name", ["e.txt", "e.jsonl", "e.tsv", "e.jsonl.gz"])
def test_empty_file_is_an_error(folder, name):
    (gzip.open(name, "wb") if name.endswith("gz") else open(name, "wb")).close()  # noqa: PTH123, SIM115
    with pytest.raises(UserError, match=f"{name}: no segment in it; a corpus needs at least one"):
        corpus(name)


@pytest.mark.parametrize("name", ["none.de", "./none", "none.jsonl", "none.parquet", "none.tsv", "/no/where"])
def test_missing_file(folder, name):
    with pytest.raises(UserError, match="no such file"):
        corpus(name)


def test_missing_reference_file(folder):
    write("s.de", "eins")
    with pytest.raises(UserError, match=r"r\.en: no such file"):
        corpus("s.de", references=["r.en"])


def test_invalid_utf8_in_any_of_the_files(folder):
    write("s.de", "eins", "zwei")
    (folder / "r.en").write_bytes(b"one\nt\xe9o\n")
    with pytest.raises(UserError, match=r"r\.en:2: not UTF-8"):
        corpus("s.de", references=["r.en"])


def test_text_needs_its_languages_and_they_must_exist(folder):
    write("s.de", "eins")
    with pytest.raises(UserError, match="plain text does not say its languages"):
        corpus("s.de", pair={})
    with pytest.raises(UserError, match=r"test: src_lang: unknown language 'german' \(did you mean 'de'\?\)"):
        corpus("s.de", pair={"src_lang": "german", "tgt_lang": "en"})
    assert corpus("s.de", pair={"src_lang": "deu_Latn", "tgt_lang": "eng"})[0].src_lang == "de"


def test_tsv_has_no_quoting_and_csv_has(folder):
    write("t.tsv", "source\treference\tsys", 'Er sagte "ja\tHe said "yes\tHe "said')
    columns = {"hypothesis_columns": {"one": "sys"}}
    [segment] = corpus("t.tsv", **columns)
    assert (segment.source, segment.references[0]) == ('Er sagte "ja', 'He said "yes')
    assert segment.candidates == (Candidate("one", 'He "said'),)
    with open("t.csv", "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
        csv.writer(file).writerows([["source", "reference", "sys"], ['a "b", c', "two\nlines", "x"], ["d", "e", "f"]])
    first, second = corpus("t.csv", **columns)
    assert (first.source, first.references, first.candidates[0].text) == ('a "b", c', ("two\nlines",), "x")
    assert second.source == "d"


def test_tables_name_file_and_line(folder):
    write("t.tsv", "source\treference", "a\tb", "only one")
    with pytest.raises(UserError, match=r"t\.tsv:3: 1 fields, but the header has 2: source, reference"):
        corpus("t.tsv")
    write("t.tsv", "src\treference", "a\tb")
    with pytest.raises(UserError, match=r"t\.tsv:2: no column 'source'; it has reference, src; set source_column"):
        corpus("t.tsv")
    assert corpus("t.tsv", source_column="src")[0].source == "a"
    with pytest.raises(UserError, match=r"no column 'ref'.*set reference_columns"):
        corpus("t.tsv", source_column="src", reference_columns=["ref"])
    write("t.tsv", "a\ta", "1\t2")
    with pytest.raises(UserError, match="two columns have one name"):
        corpus("t.tsv")
    write("t.csv", "source", '"open')
    with pytest.raises(UserError, match=r"t\.csv:2: unexpected end of data"):
        corpus("t.csv")


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.gz", "s.jsonl.zst", "s.parquet"])
def test_own_segments_come_back_as_they_were(folder, name):
    segments = [
        Segment(f"{n}", "de", "en", f"Satz {n}", (f"ref {n}",), "doc", (Candidate("a", "x", {"chrf": n / 2}, -1.5),))
        for n in range(3)
    ]
    write_json_lines(folder / name, map(segment_to_json, segments))
    assert corpus(name, pair={}) == segments
    assert corpus(name) == segments
    with pytest.raises(UserError, match="the segment's language is 'de', not 'fr' as given"):
        corpus(name, pair={"src_lang": "fr", "tgt_lang": "en"})


def test_column_rows_and_ids(folder):
    write_json_lines(folder / "c.jsonl", [{"id": 7, "de": "Ja.", "en": "Yes.", "d": "x"}, {"de": "Nein.", "en": "No."}])
    first, second = corpus("c.jsonl", source_column="de", reference_columns=["en"], doc_column="d")
    assert (first.id, first.doc, first.references) == ("7", "x", ("Yes.",))
    assert second.id == "c.jsonl:2"
    with pytest.raises(UserError, match="the row does not say its languages"):
        corpus("c.jsonl", pair={})


def test_translation_rows_and_directions_that_are_not_wanted(folder):
    row = {"language_pair": "de-en", "de": "Ja.", "en": "Yes.", "alma_en": "Yea.", "required_directions": ""}
    rows = [{"translation": row}, {"translation": row | {"required_directions": "en-de"}}]
    write_json_lines(folder / "alma.jsonl", rows)
    drops = Drops()
    assert [segment.id for segment in corpus("alma.jsonl", drops)] == ["alma.jsonl:1:de-en"]
    assert drops == {"other_direction": 1}
    assert len(corpus("alma.jsonl", pair={})) == 3


def test_files_of_references_go_with_text_only(folder):
    write("t.tsv", "source", "a")
    with pytest.raises(UserError, match="go with a plain-text source"):
        corpus("t.tsv", references=["r.en"])


def test_named_files_of_the_command_line():
    assert parse_named_files(["a=x.txt", "b=dir/y=z.txt"]) == {"a": "x.txt", "b": "dir/y=z.txt"}
    with pytest.raises(UserError, match=r"two systems are named 'a' \(x\.txt and y\.txt\)"):
        parse_named_files(["a=x.txt", "a=y.txt"])
    for wrong in ("x.txt", "a="):
        with pytest.raises(UserError, match="write it as NAME=FILE"):
            parse_named_files([wrong])
    for wrong in ("../up=x", "=x", ".hidden=x", "a/b=x", "a\nb=x", "C:=x"):
        with pytest.raises(UserError, match="system name"):
            parse_named_files([wrong])


def test_system_names_in_a_recipe_are_checked_too():
    with pytest.raises(UserError, match=r"system name '../a'"):
        load_section(CorpusConfig, {"source": "x", "hypotheses": {"../a": "f"}}, "r.toml")


def test_datasets_directories(folder):
    datasets = pytest.importorskip("datasets")
    rows = [{"translation": {"de": f"Satz {n}", "en": f"Sentence {n}"}} for n in range(4)]
    data = datasets.Dataset.from_list(rows)
    data.save_to_disk("saved")
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk("splits")
    write_json_lines(folder / "files" / "train.jsonl", rows)
    for name in ("saved", "splits", "files"):
        assert [segment.references for segment in corpus(name, take=2)] == [("Sentence 0",), ("Sentence 1",)]
    assert [segment.source for segment in corpus("splits", split="test")] == ["Satz 1"]
    with pytest.raises(UserError, match=r"unknown split of .*'tset'.*did you mean 'test'"):
        corpus("splits", split="tset")


def test_unknown_data_set_says_the_way_out(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"neither a file nor a data set .*save_to_disk and give that directory"
    ) as caught:
        corpus("some-one/no-such-set")
    assert "\n" not in str(caught.value)


def test_rows_of_text_are_refused(folder):
    write("a.txt", "x")
    with pytest.raises(UserError, match=r"a\.txt: rows are needed: \.jsonl"):
        read_rows("a.txt")


def test_own_triplets_come_back_and_bad_ones_are_counted(folder):
    good = Triplet("1", "de", "en", "Ja.", "Yes.", "No.", "a", "b", {"chrf": 2.0}, {"chrf": 1.0}, 1.0)
    rows = [good, *(Triplet("2", "de", "en", *texts) for texts in [("", "a", "b"), ("a", " ", "b"), ("a", "b", "b")])]
    write_json_lines(folder / "p.jsonl", map(triplet_to_json, rows))
    drops = Drops()
    assert list(read_triplets("p.jsonl", drops)) == [good]
    assert drops == {"empty_text": 2, "identical": 1}


def test_trl_sets_are_read_and_written(folder):
    rows = [{"prompt": "Translate: Ja.\n", "chosen": "Yes.", "rejected": "No."}]
    write_json_lines(folder / "trl.parquet", rows)
    triplets = list(read_triplets("trl.parquet"))
    assert triplets[0].id == "trl.parquet:1"
    assert list(triplets_to_trl(triplets)) == rows
    own = [Triplet("1", "de", "en", "Ja.", "Yes.", "No.")]
    assert list(triplets_to_trl(own)) == [{"prompt": "Ja.", "chosen": "Yes.", "rejected": "No."}]


def test_candidates_are_no_triplets(folder):
    write_json_lines(folder / "c.jsonl", [segment_to_json(Segment("1", "de", "en", "Ja."))])
    with pytest.raises(UserError, match=r"choose pairs first: mtcpo build-prefs c\.jsonl"):
        list(read_triplets("c.jsonl"))
    write("e.jsonl")
    with pytest.raises(UserError, match="at least one triplet"):
        list(read_triplets("e.jsonl"))
