"""Parquet files."""

import pytest

from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import read_row_file, write_row_file


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
