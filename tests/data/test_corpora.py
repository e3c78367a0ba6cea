import csv
import gzip
import json
import logging
import os
import sys
import threading
import tracemalloc
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.config import CorpusConfig, PreferenceSetConfig
from mtcpo.data.corpora import Drops, parse_named_files, read_corpus
from mtcpo.data.records import Candidate, Segment, Triplet, segment_to_json, triplet_to_json
from mtcpo.data.row_files import write_row_file
from mtcpo.data.rows import read_rows
from mtcpo.data.triplets import read_triplets, triplets_to_trl


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, *lines):
    with open(name, "w", encoding="utf-8", newline="\n") as file:  # noqa: PTH123
        file.writelines(line + "\n" for line in lines)


def section(source, pair=None, allow_code=False, cls=CorpusConfig, **settings):
    pair = {"src_lang": "de", "tgt_lang": "en"} if pair is None else pair
    return load_section(cls, {"source": source, **pair, **settings}, "test", allow_code=allow_code)


def triplets(source, **settings):
    return list(read_triplets(section(source, cls=PreferenceSetConfig, **settings)))


def corpus(source, drops=None, **settings):
    return list(read_corpus(section(source, **settings), drops))


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
    with pytest.raises(UserError, match=r"line counts differ: [^ ]*s\.de has 3, [^ ]*h\.en has 1; ") as caught:
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
    with pytest.raises(
        UserError, match=r"t\.tsv:2: no column 'source' \(did you mean 'src'\?\); it has reference, src"
    ):
        corpus("t.tsv")
    assert corpus("t.tsv", source_column="src")[0].source == "a"
    with pytest.raises(UserError, match=r"no column 'ref'.*set reference_columns"):
        corpus("t.tsv", source_column="src", reference_columns=["ref"])
    write("t.tsv", "a\ta", "1\t2")
    with pytest.raises(UserError, match="two columns have the same name"):
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
    write_row_file(folder / name, map(segment_to_json, segments))
    assert corpus(name, pair={}) == segments
    assert corpus(name) == segments
    with pytest.raises(UserError, match="the segment's language is 'de', not 'fr' as given"):
        corpus(name, pair={"src_lang": "fr", "tgt_lang": "en"})


def test_column_rows_and_ids(folder):
    write_row_file(folder / "c.jsonl", [{"id": 7, "de": "Ja.", "en": "Yes.", "d": "x"}, {"de": "Nein.", "en": "No."}])
    first, second = corpus("c.jsonl", source_column="de", reference_columns=["en"], doc_column="d")
    assert (first.id, first.doc, first.references) == ("7", "x", ("Yes.",))
    assert second.id == "c.jsonl:2"
    with pytest.raises(UserError, match="the row does not say its languages"):
        corpus("c.jsonl", pair={})


def test_translation_rows_and_directions_that_are_not_wanted(folder):
    row = {"language_pair": "de-en", "de": "Ja.", "en": "Yes.", "alma_en": "Yea.", "required_directions": ""}
    rows = [{"translation": row}, {"translation": row | {"required_directions": "en-de"}}]
    write_row_file(folder / "alma.jsonl", rows)
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
    write_row_file(folder / "files" / "train.jsonl", rows)
    for name in ("saved", "splits", "files"):
        assert [segment.references for segment in corpus(name, take=2)] == [("Sentence 0",), ("Sentence 1",)]
    assert [segment.source for segment in corpus("splits", split="test")] == ["Satz 1"]
    with pytest.raises(UserError, match=r"unknown split of .*'tset'.*did you mean 'test'"):
        corpus("splits", split="tset")


def test_a_data_set_that_cannot_be_had_is_refused_at_once(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    # No name service: huggingface_hub by itself would try again for half a minute, with pauses between.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits to try again"))
    level = logging.getLogger("huggingface_hub").level
    with pytest.raises(
        UserError, match=r"neither a file nor a data set .*save_to_disk and give that directory"
    ) as caught:
        corpus("some-one/no-such-set")
    assert "\n" not in str(caught.value)
    assert datasets.config.HF_HUB_OFFLINE is False
    assert logging.getLogger("huggingface_hub").level == level


def test_a_data_set_in_the_cache_is_read_by_its_name_without_network(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    write_row_file(folder / "a.jsonl", [{"source": "Ja.", "reference": "Yes."}])
    datasets.load_dataset("json", data_files="a.jsonl", cache_dir=str(folder / "cache"))
    # As the library keeps a data set of the hub: someone/set, its only configuration.
    [made] = (folder / "cache/json").iterdir()
    (folder / "cache/someone___set").mkdir()
    made.rename(folder / "cache/someone___set/default")
    for file in (folder / "cache/someone___set").rglob("json-*"):
        file.rename(file.with_name(file.name.replace("json-", "set-")))
    [info] = (folder / "cache/someone___set").rglob("dataset_info.json")
    described = json.loads(info.read_text(encoding="utf-8")) | {"dataset_name": "set", "config_name": "default"}
    info.write_text(json.dumps(described), encoding="utf-8")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    assert corpus("someone/set") == [Segment("set:1", "de", "en", "Ja.", ("Yes.",))]


def test_a_damaged_file_of_a_directory_is_the_users(folder):
    pytest.importorskip("datasets")
    write_row_file(folder / "files" / "train.jsonl", [{"source": "Ja.", "reference": "Yes."}])
    assert corpus("files")[0].source == "Ja."
    with (folder / "files/train.jsonl").open("a", encoding="utf-8") as file:
        file.write("{no json\n")
    with pytest.raises(UserError, match="neither a file nor a data set that can be loaded"):
        corpus("files")


def test_rows_of_text_are_refused(folder):
    write("a.txt", "x")
    with pytest.raises(UserError, match=r"a\.txt: rows are needed: \.jsonl"):
        read_rows("a.txt")


def test_own_triplets_come_back_and_bad_ones_are_counted(folder):
    good = Triplet("1", "de", "en", "Ja.", "Yes.", "No.", "a", "b", {"chrf": 2.0}, {"chrf": 1.0}, 1.0)
    rows = [good, *(Triplet("2", "de", "en", *texts) for texts in [("", "a", "b"), ("a", " ", "b"), ("a", "b", "b")])]
    write_row_file(folder / "p.jsonl", map(triplet_to_json, rows))
    drops = Drops()
    assert list(read_triplets("p.jsonl", drops)) == [good]
    assert drops == {"empty_text": 2, "identical": 1}


def test_trl_sets_are_read_and_written(folder):
    rows = [{"prompt": "Translate: Ja.\n", "chosen": "Yes.", "rejected": "No."}]
    write_row_file(folder / "trl.parquet", rows)
    triplets = list(read_triplets("trl.parquet"))
    assert triplets[0].id == "trl.parquet:1"
    assert list(triplets_to_trl(triplets)) == rows
    own = [Triplet("1", "de", "en", "Ja.", "Yes.", "No.")]
    assert list(triplets_to_trl(own)) == [{"prompt": "Ja.", "chosen": "Yes.", "rejected": "No."}]


def test_preferences_in_columns_of_any_name(folder):
    row = {"prompt": "Ja {x}.", "good": "Yes", "bad": "No", "mark": 3, "src_lang": "de", "chosen": 1, "tgt_lang": None}
    write_row_file(folder / "odd.jsonl", [row, row | {"bad": "Yes"}, row | {"good": " "}])
    columns = {"source_column": "prompt", "chosen_template": "{good}. {mark}", "rejected_column": "bad"}
    drops = Drops()
    [first, *rest] = read_triplets(PreferenceSetConfig(source="odd.jsonl", tgt_lang="en", **columns), drops)
    assert first == Triplet("odd.jsonl:1", "de", "en", "Ja {x}.", "Yes. 3", "No")
    assert len(rest) == 2
    plain = {"source_column": "prompt", "chosen_column": "good", "rejected_column": "bad"}
    assert len(list(read_triplets(PreferenceSetConfig(source="odd.jsonl", **plain), drops))) == 1
    assert drops == {"identical": 1, "empty_text": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"chosen_column": "goood"},
            r"odd\.jsonl:1: no column 'goood' \(did you mean 'good'\?\); it has bad, good, source; set",
        ),
        ({"chosen_template": "{goood}"}, "odd.jsonl:1: no column 'goood'"),
        ({"chosen_column": "good", "rejected_column": "bad", "src_lang": "xx"}, "xx"),
        ({"reference_columns": ("good",)}, "reference_columns\n  Extra inputs are not permitted"),
        ({"chosen_column": "good", "chosen_template": "{good}"}, "give either chosen_column or chosen_template"),
    ],
)
def test_wrong_columns_of_preferences(folder, settings, message):
    write_row_file(folder / "odd.jsonl", [{"source": "Ja.", "good": "Yes", "bad": "No"}])
    with pytest.raises((UserError, ValueError), match=message):
        list(read_triplets(PreferenceSetConfig(source="odd.jsonl", **settings)))


def test_a_preference_set_in_other_languages_than_said_is_refused(folder):
    write_row_file(folder / "p.jsonl", [triplet_to_json(Triplet("1", "de", "en", "Ja.", "Yes.", "No."))])
    with pytest.raises(UserError, match=r"p\.jsonl:1: the triplet's language is 'en', not 'fr' as given"):
        list(read_triplets(PreferenceSetConfig(source="p.jsonl", src_lang="de", tgt_lang="fr")))


def test_a_corpus_has_no_chosen_column(folder):
    with pytest.raises(UserError, match=r"test: unknown key 'chosen_column'.*; its keys are doc_column, hypotheses"):
        corpus("odd.jsonl", chosen_column="good")


def test_candidates_are_no_triplets(folder):
    write_row_file(folder / "c.jsonl", [segment_to_json(Segment("1", "de", "en", "Ja."))])
    with pytest.raises(UserError, match=r"choose pairs first: mtcpo build-prefs .*c\.jsonl"):
        list(read_triplets("c.jsonl"))
    write("e.jsonl")
    with pytest.raises(UserError, match="at least one triplet"):
        list(read_triplets("e.jsonl"))


def test_sources_with_their_pair_are_triplets_without_a_prompt_of_their_own(folder):
    row = {"source": "Ja.", "chosen": "Yes, it is.", "rejected": "Yes, it was."}
    with open("t.csv", "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
        csv.writer(file).writerows([row.keys(), row.values()])
    write_row_file(folder / "own.jsonl", [row | {"src_lang": "de", "tgt_lang": "en"}])
    [triplet] = triplets("t.csv")
    assert triplet == Triplet("t.csv:2", "de", "en", "Ja.", "Yes, it is.", "Yes, it was.")
    [triplet] = read_triplets("t.csv")
    assert (triplet.src_lang, triplet.tgt_lang, triplet.prompt) == ("und", "und", None)
    assert next(read_triplets("own.jsonl")).id == "own.jsonl:1"


def test_a_document_of_json_says_how_to_make_lines_of_it(folder):
    write("all.json", '[{"source": "a"}]')
    with pytest.raises(UserError, match=r"all\.json:1: a JSON object is needed, not list; .*jq -c"):
        corpus("all.json")
    write("all.json", "[", '{"source": "a"}', "]")
    with pytest.raises(UserError, match=r"all\.json:1: not JSON .*jq -c"):
        corpus("all.json")


# --- every format, the same way -------------------------------------------------------------------------------------

WORDS = [f"Satz {sha256(str(n).encode()).hexdigest()}" for n in range(4000)]
"""Nothing in them repeats: a compressed file is half as large."""
FORMATS = [
    "text",
    "text.gz",
    "text.zst",
    "tsv",
    "tsv.gz",
    "csv.zst",
    "jsonl",
    "json.gz",
    "jsonl.zst",
    "parquet",
    "saved",
]


def make(kind, folder, count):
    """A corpus of `count` sources with references in a format; its source and its further settings."""
    name, rows = f"c{count}.{kind}", [{"source": text, "reference": text.upper()} for text in WORDS[:count]]
    if kind.startswith("text"):
        for part, column in (("r", "reference"), ("s", "source")):
            packed(folder / f"{part}{name}", "".join(row[column] + "\n" for row in rows))
        return f"s{name}", {"references": [f"r{name}"]}
    if kind == "saved":
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(name)
    elif kind[0] in "tc":
        mark = "\t" if kind[0] == "t" else ","
        packed(folder / name, "".join(mark.join(line) + "\n" for line in [rows[0].keys(), *(r.values() for r in rows)]))
    else:
        write_row_file(folder / name, rows)
    return name, {}


def packed(path, text):
    import zstandard

    data = text.encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_whole_and_in_part(folder, kind):
    name, settings = make(kind, folder, 7)
    segments = corpus(name, **settings)
    assert [(segment.source, segment.references) for segment in segments] == [(t, (t.upper(),)) for t in WORDS[:7]]
    for skip, take in ((0, 3), (2, 3), (5, 9)):
        assert corpus(name, skip=skip, take=take, **settings) == segments[skip : skip + take]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_a_stream(folder, kind):
    def peak(count):
        config = section(*[(made := make(kind, folder, count))[0]], **made[1])
        tracemalloc.start()
        assert sum(1 for _ in read_corpus(config)) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)  # imports
    # In memory at once, the 3,000 further rows would take a megabyte and more.
    assert peak(4000) < peak(1000) + 250_000


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_take_counts_triplets_too(folder, suffix):
    name = f"p.{suffix}"
    write_row_file(folder / name, [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(5)])
    assert [t.prompt for t in triplets(name, skip=1, take=2)] == ["p1", "p2"]


# --- templates ------------------------------------------------------------------------------------------------------


def test_templates_over_columns(folder):
    rows = [{"title": "A {x}", "body": "b", "titel": "Ä", "text": "c", "n": 7, "src_lang": "xx", "tgt_lang": "yy"}]
    write_row_file(folder / "c.jsonl", rows)
    settings = {
        "source_template": "{n}: {title}. {{{body}}}",
        "reference_templates": ["{titel}. {text}", "{text}"],
        "hypothesis_templates": {"one": "{titel}!"},
    }
    [segment] = corpus("c.jsonl", **settings)
    assert segment.source == "7: A {x}. {b}"
    assert segment.references == ("Ä. c", "c")
    assert segment.candidates == (Candidate("one", "Ä!"),)
    assert (segment.src_lang, segment.tgt_lang) == ("de", "en")


@pytest.mark.parametrize("name", ["c.csv", "c.tsv.gz", "c.jsonl.zst", "c.parquet", "saved"])
def test_templates_go_with_every_format_of_rows(folder, name):
    rows = [{"title": "A", "body": "b", "de": "Ab"}, {"title": "C", "body": "d", "de": "Cd"}]
    if name == "saved":
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(name)
    elif name[:4] in ("c.cs", "c.ts"):
        mark = "," if "csv" in name else "\t"
        packed(folder / name, "".join(mark.join(line) + "\n" for line in [rows[0].keys(), *(r.values() for r in rows)]))
    else:
        write_row_file(folder / name, rows)
    segments = corpus(name, source_template="{title}. {body}", reference_columns=["de"], take=1)
    assert [(segment.source, segment.references) for segment in segments] == [("A. b", ("Ab",))]


def test_a_template_of_a_translation_row_takes_its_other_columns(folder):
    write_row_file(folder / "c.jsonl", [{"translation": {"de": "x", "en": "y"}, "text": "t"}])
    assert corpus("c.jsonl", source_template="<{text}>")[0].source == "<t>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", r"c\.jsonl:1: no column 'titel' \(did you mean 'title'\?\); it has body, none, title"),
        ("{none}", r"c\.jsonl:1: column 'none' is NoneType, and a template needs text or a number"),
        ("{title", r"template '\{title': expected '\}' before end of string; write \{\{ or \}\} for a brace"),
        ("{title!r}", "the name of a column is needed in the braces, and nothing else"),
        ("{title:>9}", "the name of a column is needed in the braces, and nothing else"),
        ("{}", "the name of a column is needed in the braces, and nothing else"),
        ("title", r"there is no column in it; write \{name\} for the column 'name'"),
    ],
)
def test_templates_that_cannot_be_filled(folder, template, message):
    write_row_file(folder / "c.jsonl", [{"title": "A", "body": "b", "none": None}])
    with pytest.raises(UserError, match=message):
        corpus("c.jsonl", source_template=template)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_column": "a", "source_template": "{a}"}, "give either source_column or source_template"),
        ({"reference_columns": ["a"], "reference_templates": ["{a}"]}, "give either reference_columns or reference_t"),
        ({"hypothesis_columns": {"s": "a"}, "hypothesis_templates": {"s": "{a}"}}, "'s' has a column and a template"),
        ({"options": {"a": 1}}, "options are for custom code"),
    ],
)
def test_settings_that_contradict_each_other(folder, settings, message):
    with pytest.raises(UserError, match=message):
        section("c.jsonl", **settings)
    write("c.txt", "a")
    with pytest.raises(UserError, match="plain text has none"):
        section("c.txt", source_template="{a}")


# --- code of the user's own -----------------------------------------------------------------------------------------

OWN = """
from mtcpo.data.records import Segment

class Letters:
    def __init__(self, letters="abc", wrong_at=None):
        self.letters, self.wrong_at = letters, wrong_at

    def __iter__(self):
        for number, letter in enumerate(self.letters):
            if number == self.wrong_at:
                raise ValueError("two\\nlines")
            yield {"source": letter, "reference": letter.upper()}

def segments():
    return [Segment("7", "de", "en", "Ja.", ("Yes.",))]

def numbers():
    return [1]

def pairs():
    yield {"prompt": "Ja.", "chosen": "Yes.", "rejected": "No."}
"""


@pytest.fixture
def own(folder, monkeypatch):
    """The name of a module of the user's in the working directory; its name is not used twice."""
    name = f"own_{folder.name}"
    (folder / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def test_a_class_of_ones_own_gives_rows_or_records(own):
    segments = corpus(f"python:{own}:Letters", allow_code=True, skip=1, take=1)
    assert segments == [Segment(f"python:{own}:Letters:2", "de", "en", "b", ("B",))]
    assert [s.source for s in corpus(f"python:{own}:Letters", allow_code=True, options={"letters": "xy"})] == ["x", "y"]
    assert corpus(f"python:{own}:segments", allow_code=True)[0] == Segment("7", "de", "en", "Ja.", ("Yes.",))
    [triplet] = triplets(f"python:{own}:pairs", allow_code=True)
    assert (triplet.prompt, triplet.chosen, triplet.src_lang) == ("Ja.", "Yes.", "de")


def test_code_runs_only_where_it_is_allowed(own):
    for read in (corpus, lambda name: CorpusConfig(source=name)):
        with pytest.raises((UserError, ValueError), match="is custom Python code; pass --allow-code to run it"):
            read(f"python:{own}:Letters")
    with pytest.raises(UserError, match="--allow-code"):
        next(read_triplets(f"python:{own}:pairs"))
    assert own not in sys.modules


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("OWN:Letters", {"wrong_at": 2}, r"your code raised ValueError at .*own_.*\.py:11: two lines$"),
        ("OWN:Letters", {"leters": "x"}, r"your code raised TypeError: .*unexpected keyword argument 'leters'"),
        ("OWN:Leters", {}, r"unknown name in own_.* 'Leters' \(did you mean 'Letters'\?\)"),
        ("OWN:numbers", {}, r"OWN:numbers:1: a row is a mapping, a Segment or a Triplet, not int"),
        ("no_such_module_at_all:X", {}, r"ModuleNotFoundError.*No module named 'no_such_module_at_all'"),
        ("no_such_module_at_all", {}, r"write it as python:package\.module:name"),
    ],
)
def test_errors_in_code_of_ones_own_are_told_in_one_line(own, name, options, message):
    with pytest.raises(UserError) as caught:
        corpus(f"python:{name.replace('OWN', own)}", allow_code=True, options=options)
    assert "\n" not in str(caught.value)
    assert pytest.raises(UserError, match=message.replace("OWN", own)).matches(caught.value)


def test_rows_in_memory_take_the_place_of_a_file():
    config = load_section(CorpusConfig, {"source": "row", "src_lang": "de", "tgt_lang": "en", "take": 2}, "test")
    rows = [{"source": "a"}, Segment("7", "de", "en", "b"), {"source": "c"}]
    assert [(s.id, s.source) for s in read_corpus(config, items=rows)] == [("row:1", "a"), ("7", "b")]
    with pytest.raises(UserError, match="row: a mapping with train, test; give one of its splits"):
        list(read_corpus(config, items={"train": [], "test": []}))
