"""Reading tables in text files: TSV and CSV with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.files import Row, read_lines


def read_tsv(path: Path) -> Iterator[Row]:
    """Yield the rows of a TSV file by the names in its header; see `read_csv`.

    There is no quoting, as everywhere in machine translation: a lone quotation mark is a character of the sentence.
    """
    return _read_rows(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def read_csv(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file, which may be compressed, by the names in its header.

    Raises:
        UserError: two columns of one name, a row of another length than the header, or wrong quoting.
    """
    return _read_rows(path, delimiter=",", strict=True)


def _read_rows(path: Path, **dialect: Any) -> Iterator[Row]:
    lines = (line + "\n" for line in read_lines(path))
    table = csv.reader(lines, **dialect)
    try:
        header = next(table, [])
        if len(set(header)) < len(header):
            raise UserError(f"{path}:1: two columns have the same name: {', '.join(header)}")
        for values in table:
            where = f"{path}:{table.line_num}"
            if len(values) != len(header):
                raise UserError(f"{where}: {len(values)} fields, but the header has {len(header)}: {', '.join(header)}")
            yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{table.line_num}: {error}") from None
