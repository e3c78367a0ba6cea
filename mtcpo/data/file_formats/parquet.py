"""Reading and writing Parquet files, a few thousand rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, first_line

PARQUET_ROWS_PER_GROUP = 10_000

PARQUET_ROWS_AT_ONCE = 1_000
"""Rows converted to Python objects at a time while reading; pyarrow's default is 65,536."""


def read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("path:row number", row) of a Parquet file.

    Raises:
        UserError: no such file, or not a readable Parquet file.
    """
    import pyarrow
    import pyarrow.parquet

    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from None
    number = 0
    for batch in table.iter_batches(batch_size=PARQUET_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            number += 1
            yield f"{path}:{number}", row


def write_parquet(partial: Path, rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write rows to the temporary file `partial` (`path` is for messages); return the number of rows.

    Raises:
        UserError: no rows, values of several types in one column, or a field that the first rows lack.
    """
    import itertools

    import pyarrow
    import pyarrow.parquet

    # Score names become fields of a struct, so every row group needs the same ones: those of the first group.
    iterator, count, writer = iter(rows), 0, None
    while group := list(itertools.islice(iterator, PARQUET_ROWS_PER_GROUP)):
        plain = [_without_empty_tables(dict(row)) for row in group]
        try:
            table = pyarrow.Table.from_pylist(plain)
            writer = writer or pyarrow.parquet.ParquetWriter(partial, table.schema)
            if not table.schema.equals(writer.schema):
                _refuse_new_fields(table.schema, writer.schema, path, count)
                table = pyarrow.Table.from_pylist(plain, schema=writer.schema)
        except pyarrow.ArrowException as error:
            raise UserError(
                f"{path}: all values in a column of a Parquet file must have one type ({first_line(error)}); "
                "write .jsonl instead"
            ) from None
        writer.write_table(table)
        count += len(group)
    if writer is None:
        raise UserError(f"{path}: no rows to write, and Parquet takes its columns from them; write .jsonl instead")
    writer.close()
    return count


def _refuse_new_fields(schema: Any, first: Any, path: Path, written: int) -> None:
    """Refuse fields missing from the file's schema, which pyarrow would drop silently."""
    new = sorted(_fields(schema) - _fields(first))
    if new:
        raise UserError(
            f"{path}: {', '.join(new)} first appears after row {written}, when the columns of a Parquet file are "
            "already fixed; write .jsonl instead"
        )


def _fields(schema: Any, prefix: str = "") -> set[str]:
    """Return the dotted names of all fields that hold values, including those nested in structs and lists."""
    import pyarrow

    names = set()
    for field in schema:
        kind = field.type
        # Candidates are a list of structs: their fields are what matters, not the list.
        while pyarrow.types.is_list(kind):
            kind = kind.value_type
        if pyarrow.types.is_struct(kind):
            names |= _fields(kind, f"{prefix}{field.name}.")
        elif not pyarrow.types.is_null(kind):  # a column of nulls alone can be dropped without loss
            names.add(f"{prefix}{field.name}")
    return names


def _without_empty_tables(value: Any) -> Any:
    """Replace empty dicts by None: Parquet cannot store empty structs, and unscored candidates have them."""
    if isinstance(value, dict):
        return {key: _without_empty_tables(item) for key, item in value.items()} or None
    return [_without_empty_tables(item) for item in value] if isinstance(value, list) else value
