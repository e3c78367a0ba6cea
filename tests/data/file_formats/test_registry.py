"""The table of file formats, and what holds for each of them."""

import tracemalloc
from pathlib import Path

import pytest
from support.corpora import HEADED, SENTENCES, corpus, make_corpus, section, write

from mtcpo.core.errors import UserError
from mtcpo.core.files import read_lines, sha256_of
from mtcpo.data.corpora import read_corpus
from mtcpo.data.file_formats import registry
from mtcpo.data.file_formats.registry import is_table, is_text, read_row_file, stem_of, write_row_file
from mtcpo.data.rows import read_rows

NAMES = ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"]


def test_plain_text_is_refused_if_rows_are_needed(folder):
    write("a.txt", "x")
    with pytest.raises(UserError, match=r"a\.txt: not a file of rows; its name must end in \.jsonl"):
        read_rows("a.txt")


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


@pytest.mark.parametrize("name", ["none.txt", "none.jsonl.gz", "none.parquet"])
def test_a_missing_file_is_refused(tmp_path, name):
    reader = read_lines if name.endswith("txt") else read_row_file
    with pytest.raises(UserError, match="no such file"):
        list(reader(tmp_path / name))


def test_directories_and_rows_that_are_not_objects_are_refused(tmp_path):
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


def test_a_new_format_is_one_entry_of_the_table(folder, monkeypatch):
    monkeypatch.setattr(registry, "ROW_FORMATS", (*registry.ROW_FORMATS, HEADED))
    assert write_row_file(Path("c.headed"), [{"source": "Ja."}, {"source": "Nein."}]) == 2
    assert Path("c.headed").read_text().splitlines()[0] == "rows"
    assert [segment.source for segment in corpus("c.headed")] == ["Ja.", "Nein."]
    write("c.txt", "Ja.")
    with pytest.raises(UserError, match=r"its name must end in \.jsonl, .* or \.headed$"):
        read_rows("c.txt")
    with pytest.raises(UserError, match=r"use a name in \.jsonl, .* or \.headed$"):
        write_row_file(Path("c.csv"), [])


NOT_WRITABLE = ["x.csv", "x.tsv.gz"]


@pytest.mark.parametrize("name", NOT_WRITABLE)
def test_a_name_whose_format_cannot_be_written_is_refused_before_the_first_row(tmp_path, name):
    def rows():
        pytest.fail("a row was made")
        yield {}

    message = rf"{name}: mtcpo reads this format but cannot write it; use a name in \.jsonl, .*\.parquet"
    with pytest.raises(UserError, match=message):
        write_row_file(tmp_path / name, rows())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["rows", "rows.txt", "rows.headed"])
def test_a_name_of_no_known_format_is_written_as_json_lines(tmp_path, name):
    assert write_row_file(tmp_path / name, [{"a": 1}]) == 1
    assert (tmp_path / name).read_text() == '{"a": 1}\n'


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.en-de.jsonl", "a.en-de"),
        ("a.json.zst", "a"),
        ("a.tsv.gz", "a"),
        ("a.parquet", "a"),
        ("a.jsonl.parquet", "a.jsonl"),
        ("a.parquet.gz", "a.parquet.gz"),
        ("a.txt", "a.txt"),
    ],
)
def test_the_stem_of_a_name_lacks_the_suffixes_of_its_format(name, stem):
    assert stem_of(Path("folder", name)) == stem


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
