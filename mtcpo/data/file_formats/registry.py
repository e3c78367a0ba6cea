"""The table of file formats, by which every file of rows is read, written and named.

To add a format, write a module beside this one that reads it, and add one row to ROW_FORMATS.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
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

    def stem(self, name: str) -> str | None:
        """Return a file name without the suffixes of format and compression, or None if it is in another format."""
        for compression in ("", *COMPRESSION_SUFFIXES) if self.is_compressible else ("",):
            for suffix in self.suffixes:
                if name.endswith(suffix + compression):
                    return name.removesuffix(suffix + compression)
        return None


JSON_LINES = RowFormat(
    (".jsonl", ".json"),
    read_json_lines,
    lambda partial, rows, _: write_json_lines(partial, rows),
    is_compressible=True,
)

ROW_FORMATS = (
    JSON_LINES,
    # Not compressible: Parquet compresses its columns itself, and is not read from beginning to end.
    RowFormat((".parquet",), lambda path, _: read_parquet(path), write_parquet),
    RowFormat((".tsv",), lambda path, _: read_tsv(path), is_compressible=True, is_table=True),
    RowFormat((".csv",), lambda path, _: read_csv(path), is_compressible=True, is_table=True),
)


def format_of(name: str | Path) -> RowFormat | None:
    """Return the format of a file by its name, or None: plain text, or not a file."""
    # By name, not by content: a pipe can be read only once.
    for row_format in ROW_FORMATS:
        if row_format.stem(str(name)) is not None:
            return row_format
    return None


def row_suffixes() -> str:
    """Return the suffixes of all formats, for messages."""
    return _join_suffixes(ROW_FORMATS)


def writable_suffixes() -> str:
    """Return the suffixes of the formats in which rows can be written, for messages."""
    return _join_suffixes(row_format for row_format in ROW_FORMATS if row_format.write is not None)


def _join_suffixes(formats: Iterable[RowFormat]) -> str:
    suffixes: list[str] = []
    for row_format in formats:
        suffixes += row_format.suffixes
    return f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"


def stem_of(path: Path) -> str:
    """Return the name of a file without the suffixes of its format and compression: `a.de.jsonl.gz` -> `a.de`."""
    row_format = format_of(path)
    stem = row_format.stem(path.name) if row_format is not None else None
    return path.name if stem is None else stem


def is_plain_lines(path: Path) -> bool:
    """Whether a file of this name is JSON Lines without compression, which can be appended to and truncated."""
    return (format_of(path) or JSON_LINES) is JSON_LINES and path.suffix not in COMPRESSION_SUFFIXES


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
    # Temporary files end with .partial, and are JSON Lines whatever the output will be.
    return (format_of(path) or JSON_LINES).read(path, drops)


def check_writable(path: Path) -> Writer:
    """Return what writes rows to a file of this name; whoever works for hours before writing calls this first.

    Without the suffix of a known format, that is JSON Lines.

    Raises:
        UserError: the name has the suffix of a format that is only read.
    """
    row_format = format_of(path) or JSON_LINES
    # JSON Lines under the suffix of another format would be read as that format, by mtcpo too.
    if row_format.write is None:
        raise UserError(f"{path}: mtcpo reads this format but cannot write it; use a name in {writable_suffixes()}")
    return row_format.write


def write_row_file(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Stream rows to a file in the format of its name, and rename it when it is complete; return the number of rows.

    Raises:
        UserError: the name has the suffix of a format that is only read, or the writer cannot hold these rows.
    """
    write = check_writable(path)
    with complete_file(path) as partial:
        return write(partial, rows, path)
