"""The file formats of rows."""

import csv
import hashlib
import tracemalloc
from collections import Counter

import pytest
from support.corpora import SENTENCES, corpus, make_corpus, section, write

from mtcpo.core.errors import UserError
from mtcpo.core.files import read_lines, sha256_of
from mtcpo.data.corpora import read_corpus
from mtcpo.data.file_formats import registry
from mtcpo.data.file_formats.registry import RowFormat, is_table, is_text, read_row_file, write_row_file
from mtcpo.data.records import Candidate
from mtcpo.data.rows import read_rows

NAMES = ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"]


def test_plain_text_is_refused_where_rows_are_needed(folder):
    write("a.txt", "x")
    with pytest.raises(UserError, match=r"a\.txt: not a file of rows; its name must end in \.jsonl"):
        read_rows("a.txt")


def test_a_json_document_is_refused_with_the_way_to_json_lines(folder):
    write("all.json", '[{"source": "a"}]')
    with pytest.raises(UserError, match=r"all\.json:1: a JSON object is needed, not list; .*jq -c"):
        corpus("all.json")
    write("all.json", "[", '{"source": "a"}', "]")
    with pytest.raises(UserError, match=r"all\.json:1: not JSON .*jq -c"):
        corpus("all.json")


def test_csv_has_quoting_and_tsv_has_none(folder):
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


def test_mistakes_in_tables_name_file_and_line(folder):
    write("t.tsv", "source\treference", "a\tb", "only one")
    with pytest.raises(UserError, match=r"t\.tsv:3: 1 fields, but the header has 2: source, reference"):
        corpus("t.tsv")
    write("t.tsv", "src\treference", "a\tb")
    with pytest.raises(
        UserError, match=r"t\.tsv:2: no column 'source' \(did you mean 'src'\?\); the row has reference, src"
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


@pytest.mark.parametrize("kind", FORMATS)
def test_skip_and_take_work_in_every_format(folder, kind):
    name, settings = make_corpus(kind, folder, 7)
    segments = corpus(name, **settings)
    assert [(segment.source, segment.references) for segment in segments] == [(t, (t.upper(),)) for t in SENTENCES[:7]]
    for skip, take in ((0, 3), (2, 3), (5, 9)):
        assert corpus(name, skip=skip, take=take, **settings) == segments[skip : skip + take]


@pytest.mark.parametrize("kind", FORMATS)
def test_memory_does_not_grow_with_the_file_in_any_format(folder, kind):
    def peak(count):
        config = section(*[(made := make_corpus(kind, folder, count))[0]], **made[1])
        tracemalloc.start()
        assert sum(1 for _ in read_corpus(config)) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)  # imports
    # In memory at once, the 3,000 further rows would take a megabyte and more.
    assert peak(4000) < peak(1000) + 250_000


# --- reading and writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_read_as_written_in_each_format(tmp_path, name):
    rows = [{"id": str(n), "text": f"Zeile {n} äöü\u2028日本", "scores": {"chrf": n / 7}} for n in range(25)]
    assert write_row_file(tmp_path / name, iter(rows)) == 25
    assert [row for _, row in read_row_file(tmp_path / name)] == rows
    assert [where for where, _ in read_row_file(tmp_path / name)][2] == f"{tmp_path / name}:3"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", NAMES[:3])
def test_the_same_rows_give_the_same_bytes(tmp_path, name):
    for folder in ("one", "two"):
        write_row_file(tmp_path / folder / name, [{"a": 1}, {"a": 2}])
    assert sha256_of(tmp_path / "one" / name) == sha256_of(tmp_path / "two" / name)


def test_a_truncated_zstandard_file_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl.zst"
    write_row_file(path, ({"n": n, "h": hashlib.sha256(str(n).encode()).hexdigest()} for n in range(20000)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        UserError, match=r"rows\.jsonl\.zst: truncated after line \d+ \(it ends in the middle of a frame\)"
    ):
        list(read_row_file(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_archive_is_not_taken_for_a_truncated_one(tmp_path, suffix):
    path = tmp_path / f"rows.jsonl{suffix}"
    write_row_file(path, ({"n": n, "h": hashlib.sha256(str(n).encode()).hexdigest()} for n in range(20000)))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(bytes(data))
    drops = Counter()
    with pytest.raises(UserError, match=rf"rows\.jsonl\{suffix}(: damaged archive after line \d+|:\d+: not )"):
        list(read_row_file(path, drops))
    assert not drops


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_complete_lines_of_a_truncated_archive_are_read_where_drops_are_counted(tmp_path, suffix):
    path = tmp_path / f"rows.jsonl{suffix}"
    rows = [{"n": n, "h": hashlib.sha256(str(n).encode()).hexdigest()} for n in range(3000)]
    write_row_file(path, rows)
    data = path.read_bytes()
    for end in (len(data) * 2 // 3, len(data) - 5, len(data) - 1):
        path.write_bytes(data[:end])
        drops = Counter()
        found = [row for _, row in read_row_file(path, drops)]
        assert drops == {"truncated_line": 1}
        assert len(found) > 900
        assert found == rows[: len(found)]
    path.write_bytes(data[:12])
    with pytest.raises(UserError, match=rf"rows\.jsonl\{suffix}: truncated after line 0"):
        list(read_row_file(path, Counter()))


@pytest.mark.parametrize("name", ["none.txt", "none.jsonl.gz", "none.parquet"])
def test_a_missing_file_is_refused(tmp_path, name):
    reader = read_lines if name.endswith("txt") else read_row_file
    with pytest.raises(UserError, match="no such file"):
        list(reader(tmp_path / name))


def test_directories_and_rows_that_are_no_objects_are_refused(tmp_path):
    with pytest.raises(UserError, match="a directory, not a text file"):
        list(read_lines(tmp_path))
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(UserError, match=r"bad\.jsonl:3: not JSON"):
        list(read_row_file(tmp_path / "bad.jsonl"))
    (tmp_path / "list.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"list\.jsonl:1: a JSON object is needed, not list"):
        list(read_row_file(tmp_path / "list.jsonl"))
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        list(read_row_file(tmp_path / "bad.parquet"))


@pytest.mark.parametrize("name", NAMES)
def test_no_file_appears_if_the_rows_fail(tmp_path, name):
    def rows():
        yield {"a": 1}
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_row_file(tmp_path / name, rows())
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_rows_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(UserError, match=r"write \.jsonl instead"):
        write_row_file(tmp_path / "x.parquet", [])
    assert list(tmp_path.iterdir()) == []


def test_a_field_that_comes_late_is_refused_and_not_lost_in_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr("mtcpo.data.file_formats.parquet.PARQUET_ROWS_PER_GROUP", 2)
    path = tmp_path / "x.parquet"
    rows = [{"id": str(n), "scores": {"chrf": 1.0}} for n in range(3)]
    with pytest.raises(UserError, match=r"x\.parquet: scores\.comet first appears after row 2, .*write \.jsonl"):
        write_row_file(path, [*rows, {"id": "3", "scores": {"comet": 0.5}}])
    with pytest.raises(UserError, match=r"all values in a column of a Parquet file must have one type .*write \.jsonl"):
        write_row_file(path, [*rows, {"id": "3", "scores": {"chrf": "text"}}])
    assert list(tmp_path.iterdir()) == []
    late = [*rows, {"id": "3", "scores": None}]
    assert write_row_file(path, late) == 4
    assert [row for _, row in read_row_file(path)] == late


def test_a_new_format_is_one_entry_of_the_table(folder, monkeypatch):
    def read_words(path, drops):
        for number, line in enumerate(read_lines(path), start=1):
            yield f"{path}:{number}", {"source": line}

    monkeypatch.setattr(registry, "ROW_FORMATS", (*registry.ROW_FORMATS, RowFormat((".words",), read_words)))
    write("c.words", "Ja.", "Nein.")
    assert [segment.source for segment in corpus("c.words")] == ["Ja.", "Nein."]
    write("c.txt", "Ja.")
    with pytest.raises(UserError, match=r"its name must end in \.jsonl, \.json, \.parquet, \.tsv, \.csv or \.words$"):
        read_rows("c.txt")


@pytest.mark.parametrize(
    ("name", "text", "table"),
    [
        ("a.txt", True, False),
        ("a.tsv.gz", False, True),
        ("a.csv", False, True),
        ("a.jsonl.zst", False, False),
        ("a.parquet", False, False),
        ("a.parquet.gz", True, False),  # Parquet compresses its columns itself
        ("google/wmt24pp", False, False),
        ("python:module:name", False, False),
    ],
)
def test_names_say_formats(name, text, table):
    assert (is_text(name), is_table(name)) == (text, table)
