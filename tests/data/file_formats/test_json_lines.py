"""JSON Lines, also truncated, damaged and compressed."""

import hashlib
from collections import Counter

import pytest
from support.corpora import corpus, write

from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import read_row_file, write_row_file


def test_a_json_document_is_refused_with_the_way_to_json_lines(folder):
    write("all.json", '[{"source": "a"}]')
    with pytest.raises(UserError, match=r"all\.json:1: a JSON object is needed, not list; .*jq -c"):
        corpus("all.json")
    write("all.json", "[", '{"source": "a"}', "]")
    with pytest.raises(UserError, match=r"all\.json:1: not JSON .*jq -c"):
        corpus("all.json")


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
def test_complete_lines_of_a_truncated_archive_are_read_if_drops_are_counted(tmp_path, suffix):
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
