import gzip
import hashlib
import json

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

NAMES = ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"]
lines = st.text(st.characters(exclude_characters="\n\r\ufeff", exclude_categories=["Cs"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(lines, min_size=1))
def test_only_newlines_end_a_line(tmp_path, texts):
    path = tmp_path / "text.txt"
    path.write_bytes("".join(text + "\n" for text in texts).encode())
    assert list(read_lines(path)) == texts
    assert count_lines(path) == len(texts)


def test_windows_line_ends_and_byte_order_mark_are_removed(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfeins\r\nzwei\r\n\r\nletzte")
    assert list(read_lines(tmp_path / "a.txt")) == ["eins", "zwei", "", "letzte"]


def test_invalid_utf8_names_file_line_and_column(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"gut\ngr\xfcn\n")
    with pytest.raises(UserError, match=r"latin1\.txt:2: not UTF-8 \(byte 0xfc at column 3\)"):
        list(read_lines(path))


def test_a_truncated_gzip_file_is_refused(tmp_path):
    whole = gzip.compress("".join(f"{n} {hashlib.sha256(str(n).encode()).hexdigest()}\n" for n in range(5000)).encode())
    (tmp_path / "truncated.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"truncated\.txt\.gz: truncated after line \d+ \(Compressed file ended"):
        list(read_lines(tmp_path / "truncated.txt.gz"))


def test_several_zstandard_frames_are_one_file(tmp_path):
    import zstandard

    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "a.txt.zst").write_bytes(compress(b"one\ntwo\n") + compress(b"") + compress(b"three\n"))
    assert list(read_lines(tmp_path / "a.txt.zst")) == ["one", "two", "three"]


def test_plain_text_named_like_an_archive_is_refused(tmp_path):
    for name in ("plain.txt.gz", "plain.txt.zst"):
        (tmp_path / name).write_text("not compressed\n")
        with pytest.raises(UserError, match="damaged archive"):
            list(read_lines(tmp_path / name))


def test_a_failed_write_keeps_the_old_file(tmp_path):
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


def test_a_folder_is_replaced_completely_or_not_at_all(tmp_path):
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


def test_the_hash_of_a_folder_depends_on_names(tmp_path):
    write_text(tmp_path / "f" / "a.txt", "abc")
    assert sha256_of(tmp_path / "f" / "a.txt") == hashlib.sha256(b"abc").hexdigest()
    before = sha256_of(tmp_path / "f")
    (tmp_path / "f" / "a.txt").rename(tmp_path / "f" / "b.txt")
    assert sha256_of(tmp_path / "f") != before


def test_an_existing_output_is_refused_without_overwrite(tmp_path):
    refuse_existing(tmp_path / "new", overwrite=False)
    refuse_existing(tmp_path, overwrite=True)
    with pytest.raises(UserError, match="exists; pass --overwrite"):
        refuse_existing(tmp_path, overwrite=False)
