"""Reading and writing JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.files import Row, TruncatedArchiveError, decode_line, open_binary, read_raw_lines

AS_LINES = "; turn a document into one object a line, for example with jq -c '.[]'"


def read_json_lines(path: Path, drops: Counter[str] | None = None) -> Iterator[Row]:
    """Yield the objects of a JSON Lines file, which may be compressed; empty lines are skipped.

    drops: counts an incomplete last line (the file or its archive was truncated) as `truncated_line`. Without it, such
    a file is refused; so is, in any case, one whose first line is incomplete.

    Raises:
        UserError: a line is not a JSON object; names file and line.
    """
    lines = read_raw_lines(path) if drops is None else _complete_lines(path, drops)
    for number, raw in lines:
        line = decode_line(raw, path, number)
        if line.strip():
            yield f"{path}:{number}", _parse_object(line, path, number)


def _parse_object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        way_out = AS_LINES if number == 1 and line.lstrip()[0] in "[{" else ""
        raise UserError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno}){way_out}") from None
    if not isinstance(row, dict):
        way_out = AS_LINES if isinstance(row, list) else ""
        raise UserError(f"{path}:{number}: a JSON object is needed, not {type(row).__name__}{way_out}")
    return row


def _complete_lines(path: Path, drops: Counter[str]) -> Iterator[tuple[int, bytes]]:
    """Yield the complete lines of a file; if it or its archive was truncated, stop there and count it in `drops`."""
    number = 0
    try:
        for number, raw in read_raw_lines(path):
            # If the first line is not JSON, the file is of another format, not the output of an interrupted program.
            if number > 1 and _is_truncated(raw):
                drops["truncated_line"] += 1
            else:
                yield number, raw
    except TruncatedArchiveError:
        if number == 0:
            raise
        drops["truncated_line"] += 1


def _is_truncated(raw: bytes) -> bool:
    """Whether a line lacks its line end (so it is the last one) and is only the beginning of a JSON value."""
    if raw.endswith(b"\n"):
        return False
    try:
        json.loads(raw)
    except ValueError:  # not JSON, or cut inside a UTF-8 character
        return bool(raw.strip())
    return False


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Stream rows to `path` (no temporary file), compressed by its suffix; return the number of rows."""
    count = 0
    with open_binary(path, "wb") as file:
        for row in rows:
            file.write(json_line(row))
            count += 1
    return count


def json_line(row: Mapping[str, Any]) -> bytes:
    """Return one row as a line of JSON in UTF-8; NaN and infinities raise ValueError."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
