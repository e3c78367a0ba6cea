import gzip
import hashlib
import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtcpo.core.errors import UserError
from mtcpo.core.files import (
    complete_file,
    complete_folder,
    count_lines,
    partial_path,
    read_lines,
    refuse_existing,
    sha256_of,
    write_json,
    write_text,
)
from mtcpo.data.row_files import read_row_file, write_row_file

NAMES = ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"]
lines = st.text(st.characters(exclude_characters="\n\r\ufeff", exclude_categories=["Cs"]))


@pytest.mark.parametrize("name", NAMES)
def test_rows_survive_each_format(tmp_path, name):
    rows = [{"id": str(n), "text": f"Zeile {n} äöü\u2028日本", "scores": {"chrf": n / 7}} for n in range(25)]
    assert write_row_file(tmp_path / name, iter(rows)) == 25
    assert [row for _, row in read_row_file(tmp_path / name)] == rows
    assert [where for where, _ in read_row_file(tmp_path / name)][2] == f"{tmp_path / name}:3"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", NAMES[:3])
def test_same_rows_give_same_bytes(tmp_path, name):
    for folder in ("one", "two"):
        write_row_file(tmp_path / folder / name, [{"a": 1}, {"a": 2}])
    assert sha256_of(tmp_path / "one" / name) == sha256_of(tmp_path / "two" / name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(lines, min_size=1))
def test_only_newlines_end_lines(tmp_path, texts):
    path = tmp_path / "text.txt"
    path.write_bytes("".join(text + "\n" for text in texts).encode())
    assert list(read_lines(path)) == texts
    assert count_lines(path) == len(texts)


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfeins\r\nzwei\r\n\r\nletzte")
    assert list(read_lines(tmp_path / "a.txt")) == ["eins", "zwei", "", "letzte"]


def test_invalid_utf8_names_file_line_and_column(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"gut\ngr\xfcn\n")
    with pytest.raises(UserError, match=r"latin1\.txt:2: not UTF-8 \(byte 0xfc at column 3\)"):
        list(read_lines(path))


def test_cut_archive_is_reported_and_not_read_as_shorter(tmp_path):
    whole = gzip.compress("".join(f"{n} {hashlib.sha256(str(n).encode()).hexdigest()}\n" for n in range(5000)).encode())
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.txt\.gz: truncated after line \d+ \(Compressed file ended"):
        list(read_lines(tmp_path / "cut.txt.gz"))


def test_cut_zstandard_is_reported_and_not_read_as_shorter(tmp_path):
    path = tmp_path / "rows.jsonl.zst"
    write_row_file(path, ({"n": n, "h": hashlib.sha256(str(n).encode()).hexdigest()} for n in range(20000)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        UserError, match=r"rows\.jsonl\.zst: truncated after line \d+ \(it ends in the middle of a frame\)"
    ):
        list(read_row_file(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_archive_is_no_cut_one(tmp_path, suffix):
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
def test_a_cut_archive_gives_its_complete_lines_where_they_are_counted(tmp_path, suffix):
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


def test_several_zstandard_frames_are_one_file(tmp_path):
    import zstandard

    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "a.txt.zst").write_bytes(compress(b"one\ntwo\n") + compress(b"") + compress(b"three\n"))
    assert list(read_lines(tmp_path / "a.txt.zst")) == ["one", "two", "three"]


def test_text_named_like_an_archive(tmp_path):
    for name in ("plain.txt.gz", "plain.txt.zst"):
        (tmp_path / name).write_text("not compressed\n")
        with pytest.raises(UserError, match="damaged archive"):
            list(read_lines(tmp_path / name))


@pytest.mark.parametrize("name", ["none.txt", "none.jsonl.gz", "none.parquet"])
def test_missing_file(tmp_path, name):
    reader = read_lines if name.endswith("txt") else read_row_file
    with pytest.raises(UserError, match="no such file"):
        list(reader(tmp_path / name))


def test_directory_and_bad_rows(tmp_path):
    with pytest.raises(UserError, match="is a directory"):
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
def test_nothing_appears_under_its_name_when_rows_fail(tmp_path, name):
    def rows():
        yield {"a": 1}
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_row_file(tmp_path / name, rows())
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_what_was_there(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"old": True})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": True}
    with pytest.raises(KeyboardInterrupt), complete_file(path) as partial:
        _write_and_raise(partial, KeyboardInterrupt)
    assert json.loads(path.read_text()) == {"old": True}
    assert not partial_path(path).exists()


def _write_and_raise(path, error):
    path.write_text("half")
    raise error


def test_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with complete_folder(folder) as partial:
        (partial / "a").write_text("1")
    with complete_folder(folder) as partial:
        (partial / "b").write_text("2")
    assert [path.name for path in folder.iterdir()] == ["b"]
    with pytest.raises(RuntimeError), complete_folder(folder) as partial:
        _write_and_raise(partial / "c", RuntimeError)
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_hashes(tmp_path):
    write_text(tmp_path / "f" / "a.txt", "abc")
    assert sha256_of(tmp_path / "f" / "a.txt") == hashlib.sha256(b"abc").hexdigest()
    before = sha256_of(tmp_path / "f")
    (tmp_path / "f" / "a.txt").rename(tmp_path / "f" / "b.txt")
    assert sha256_of(tmp_path / "f") != before


def test_existing_output_is_refused(tmp_path):
    refuse_existing(tmp_path / "new", overwrite=False)
    refuse_existing(tmp_path, overwrite=True)
    with pytest.raises(UserError, match="exists; pass --overwrite"):
        refuse_existing(tmp_path, overwrite=False)


def test_parquet_without_rows_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"use \.jsonl"):
        write_row_file(tmp_path / "x.parquet", [])
    assert list(tmp_path.iterdir()) == []


def test_parquet_loses_no_field_that_comes_late(tmp_path, monkeypatch):
    monkeypatch.setattr("mtcpo.core.parquet.PARQUET_ROWS_PER_GROUP", 2)
    path = tmp_path / "x.parquet"
    rows = [{"id": str(n), "scores": {"chrf": 1.0}} for n in range(3)]
    with pytest.raises(UserError, match=r"x\.parquet: scores\.comet first appears after row 2, .*write \.jsonl"):
        write_row_file(path, [*rows, {"id": "3", "scores": {"comet": 0.5}}])
    with pytest.raises(UserError, match=r"a column of a Parquet file has values of one type .*write \.jsonl"):
        write_row_file(path, [*rows, {"id": "3", "scores": {"chrf": "text"}}])
    assert list(tmp_path.iterdir()) == []
    late = [*rows, {"id": "3", "scores": None}]
    assert write_row_file(path, late) == 4
    assert [row for _, row in read_row_file(path)] == late
