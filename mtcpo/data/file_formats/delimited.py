"""Reading TSV and CSV files with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, counted
from mtcpo.core.files import Row, read_lines


def read_tsv(path: Path) -> Iterator[Row]:
    """Yield the rows of a TSV file as header name -> text; see `read_csv`.

    Quotes are not special, as is usual for MT data: a lone quotation mark is part of the sentence.
    """
    return _read_rows(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def read_csv(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file, which may be compressed, as header name -> text.

    Raises:
        UserError: two columns have the same name, a row has more or fewer cells than the header, or quoting is invalid.
    """
    return _read_rows(path, delimiter=",", strict=True)


def _read_rows(path: Path, **dialect: Any) -> Iterator[Row]:
    # With their line ends again: csv keeps those inside quotes as part of the cell.
    lines = (line + "\n" for line in read_lines(path))
    table = csv.reader(lines, **dialect)
    try:
        header = next(table, [])
        if len(set(header)) < len(header):
            raise UserError(f"{path}:1: two columns have the same name: {', '.join(header)}")
        for values in table:
            where = f"{path}:{table.line_num}"
            if len(values) != len(header):
                raise UserError(
                    f"{where}: {counted(len(values), 'field')}, but the header has {len(header)}: {', '.join(header)}"
                )
            yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{table.line_num}: {error}") from None
