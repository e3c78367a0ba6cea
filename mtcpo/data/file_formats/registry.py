"""The file formats of rows. To add a format, write a module that reads it and add one entry to ROW_FORMATS."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtcpo.core.files import COMPRESSION_SUFFIXES, Row, complete_file
from mtcpo.core.user_code import is_user_code
from mtcpo.data.file_formats.delimited import read_csv, read_tsv
from mtcpo.data.file_formats.json_lines import read_json_lines, write_json_lines
from mtcpo.data.file_formats.parquet import read_parquet, write_parquet

Reader = Callable[[Path, Counter[str] | None], Iterator[Row]]
"""(file, counter of truncated lines) -> rows."""

Writer = Callable[[Path, Iterable[Mapping[str, Any]], Path], int]
"""(temporary file, rows, final file for messages) -> number of rows."""


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A file format, recognized by the suffix of the file name.

    write: None if the format is only read. is_compressible: whether a file may also be a .gz or .zst.
    is_table: whether a row is plain texts by column, which cannot hold records.
    """

    suffixes: tuple[str, ...]
    read: Reader
    write: Writer | None = None
    is_compressible: bool = False
    is_table: bool = False

    def matches(self, name: str) -> bool:
        """Whether a file of this name is in this format."""
        for compression in COMPRESSION_SUFFIXES if self.is_compressible else ():
            name = name.removesuffix(compression)
        return name.endswith(self.suffixes)


JSON_LINES = RowFormat(
    (".jsonl", ".json"),
    read_json_lines,
    lambda partial, rows, _: write_json_lines(partial, rows),
    is_compressible=True,
)

ROW_FORMATS = (
    JSON_LINES,
    RowFormat((".parquet",), lambda path, _: read_parquet(path), write_parquet),
    RowFormat((".tsv",), lambda path, _: read_tsv(path), is_compressible=True, is_table=True),
    RowFormat((".csv",), lambda path, _: read_csv(path), is_compressible=True, is_table=True),
)


def format_of(name: str | Path) -> RowFormat | None:
    """Return the format of a file by its name, or None: plain text, or not a file."""
    # By name, not by content: a pipe can be read only once.
    for row_format in ROW_FORMATS:
        if row_format.matches(str(name)):
            return row_format
    return None


def row_suffixes() -> str:
    """Return the suffixes of all formats, for messages."""
    suffixes: list[str] = []
    for row_format in ROW_FORMATS:
        suffixes += row_format.suffixes
    return f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"


def is_file(name: str) -> bool:
    """Whether `name` means a file (existing or not) and not a data set: names on the hub have no suffix of letters."""
    if is_user_code(name):
        return False
    path = Path(name)
    if path.exists():
        return not path.is_dir()
    # A mistyped file name must not be looked up on the hub, whose error would be about the network.
    return name.startswith(("/", ".", "~")) or re.search(r"\.[A-Za-z]\w*$", name) is not None


def is_text(name: str) -> bool:
    """Whether `name` means a file of plain text, one segment a line."""
    return is_file(name) and format_of(name) is None


def is_table(name: str) -> bool:
    """Whether `name` means a file whose rows are plain texts by column, such as TSV."""
    row_format = format_of(name)
    return row_format is not None and row_format.is_table


def read_row_file(path: Path, drops: Counter[str] | None = None) -> Iterator[Row]:
    """Yield ("file:line", row) of a file of rows; without a known suffix, it is read as JSON Lines.

    drops: counts an incomplete last line, in formats that allow it; see `read_json_lines`.
    """
    return (format_of(path) or JSON_LINES).read(path, drops)


def write_row_file(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Stream rows to a file and rename it when it is complete; return the number of rows.

    Without the suffix of a format that can be written, the file is JSON Lines.
    """
    # Names such as out.txt are accepted too; `read_row_file` also reads them as JSON Lines.
    row_format = format_of(path)
    write = row_format.write if row_format is not None else None
    with complete_file(path) as partial:
        if write is None:
            return write_json_lines(partial, rows)
        return write(partial, rows, path)
