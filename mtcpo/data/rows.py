"""Rows of any file, data set or class, as a stream, each with the place that messages name."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from mtcpo.core.errors import UserError, choose, first_line
from mtcpo.core.files import read_json_lines, read_lines
from mtcpo.core.hub import is_hub_unreachable
from mtcpo.core.user_code import explain_user_code, is_user_code, load_user_code
from mtcpo.data.records import Segment, Triplet, segment_from_json, segment_to_json, triplet_to_json

Item = TypeVar("Item")
Row = tuple[str, dict[str, Any]]
"""("file:line", the row)."""

COMPRESSED = ("", ".gz", ".zst")
ROW_SUFFIXES = (".parquet", *(f"{kind}{packed}" for kind in (".jsonl", ".json") for packed in COMPRESSED))
TABLE_SUFFIXES = {
    f"{kind}{packed}": mark for kind, mark in ((".tsv", "\t"), (".csv", ",")) for packed in COMPRESSED
}  # fmt: skip


def require_first(items: Iterator[Item], message: str) -> Iterator[Item]:
    """Return the same items once the first has been read, so that a mistake in it shows before any work.

    Raises:
        UserError: there is no item; `message` is its text.
    """
    first = next(items, None)
    if first is None:
        raise UserError(message)
    return chain([first], items)


def is_file(name: str) -> bool:
    """Whether `name` means a file, there or missing, and not a data set: hub names have no suffix of letters."""
    if is_user_code(name):
        return False
    path = Path(name)
    if path.exists():
        return not path.is_dir()
    return name.startswith(("/", ".", "~")) or re.search(r"\.[A-Za-z]\w*$", name) is not None


def is_text(name: str) -> bool:
    """Whether `name` means a file of plain text, one segment a line."""
    return is_file(name) and not name.endswith((*ROW_SUFFIXES, *TABLE_SUFFIXES))


def is_table(name: str) -> bool:
    """Whether `name` means a TSV or CSV file."""
    return name.endswith(tuple(TABLE_SUFFIXES))


def read_rows(
    name: str,
    subset: str | None = None,
    split: str = "train",
    options: Mapping[str, Any] | None = None,
    drops: Counter[str] | None = None,
) -> Iterator[Row]:
    """Yield ("file:line", row) of a JSON Lines, Parquet, TSV or CSV file, of a data set, or of code (`owncode`).

    A data set is a directory, one written by `save_to_disk` among them, or a name on the hub. drops: where a last line
    that was cut in its middle is counted; see `read_json_lines`.
    """
    if is_user_code(name):
        return code_rows(name, options or {})
    path = Path(name)
    for suffix, delimiter in TABLE_SUFFIXES.items():
        if name.endswith(suffix):
            return _table_rows(path, delimiter)
    if name.endswith(ROW_SUFFIXES):
        return read_json_lines(path, drops)
    if is_file(name):
        raise UserError(
            f"{path}: {'rows are needed: .jsonl, .parquet, .tsv or .csv' if path.exists() else 'no such file'}"
        )
    return _dataset_rows(name, subset, split)


def _table_rows(path: Path, delimiter: str) -> Iterator[Row]:
    lines = (line + "\n" for line in read_lines(path))
    if delimiter == "\t":
        # TSV in machine translation has no quoting: a lone quotation mark is a character of the sentence.
        table = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        table = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(table, [])
        if len(set(header)) < len(header):
            raise UserError(f"{path}:1: two columns have one name: {', '.join(header)}")
        for values in table:
            where = f"{path}:{table.line_num}"
            if len(values) != len(header):
                raise UserError(f"{where}: {len(values)} fields, but the header has {len(header)}: {', '.join(header)}")
            yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{table.line_num}: {error}") from None


def _dataset_rows(name: str, subset: str | None, split: str) -> Iterator[Row]:
    with _explained(name):
        rows = iter(_load_dataset(name, subset, split))
    number = 0
    while True:
        number += 1
        # A damaged file of a directory, or a network that goes away, shows while the rows are read.
        with _explained(name):
            row = next(rows, None)
        if row is None:
            return
        yield f"{name}:{number}", row


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn the library's failure into one line: it raises some twenty kinds, from its own to the network's."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        raise UserError(
            f"{name}: neither a file nor a data set that can be loaded ({type(cause).__name__}: {first_line(cause)}); "
            "check the name and its subset, or save it elsewhere with save_to_disk and give that directory"
        ) from error


def _load_dataset(name: str, subset: str | None, split: str) -> Iterable[dict[str, Any]]:
    import datasets

    folder = Path(name)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        loaded = datasets.load_from_disk(name)
    else:
        with _without_waiting(folder.is_dir()):
            loaded = datasets.load_dataset(name, subset, streaming=True)
    if not isinstance(loaded, dict):
        return loaded  # type: ignore[no-any-return]
    if split not in loaded:
        raise choose(f"split of {name}", split, loaded)
    return loaded[split]  # type: ignore[no-any-return]


@contextmanager
def _without_waiting(local: bool) -> Iterator[None]:
    """Keep the library from half a minute of retries, and ten lines about them, where there is no network.

    What it has in its cache it then still finds.
    """
    import datasets

    hub_log, offline = logging.getLogger("huggingface_hub"), datasets.config.HF_HUB_OFFLINE
    level = hub_log.level
    hub_log.setLevel(logging.ERROR)
    datasets.config.HF_HUB_OFFLINE = offline or (not local and is_hub_unreachable())
    try:
        yield
    finally:
        hub_log.setLevel(level)
        datasets.config.HF_HUB_OFFLINE = offline


def code_rows(name: str, options: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("name:number", row) of what the user's class gives.

    Raises:
        UserError: it cannot be imported, called or iterated over, with its own error and the line where that arose.
    """
    make = load_user_code(name)
    with explain_user_code(name):
        items = iter(make(**options))
    return rows_of(_explained_items(items, name), name)


def rows_of(items: Iterable[Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("name:number", row) of rows or records in memory: a list, a `datasets.Dataset`, anything iterable.

    Raises:
        UserError: an item is neither a mapping nor a record, or `items` is a mapping of splits.
    """
    if isinstance(items, Mapping):
        raise UserError(f"{name}: a mapping with {', '.join(map(str, items))}; give one of its splits")
    for number, item in enumerate(items, start=1):
        yield f"{name}:{number}", _row(item, f"{name}:{number}")


def _row(item: Any, where: str) -> dict[str, Any]:
    if isinstance(item, Segment):
        return segment_to_json(item)
    if isinstance(item, Triplet):
        return triplet_to_json(item)
    if isinstance(item, Mapping):
        return dict(item)
    raise UserError(f"{where}: a row is a mapping, a Segment or a Triplet, not {type(item).__name__}")


def _explained_items(items: Iterator[Any], name: str) -> Iterator[Any]:
    """Yield the items of custom code, whose errors are reported as the user's."""
    end = object()
    while True:
        with explain_user_code(name):
            item = next(items, end)
        if item is end:
            return
        yield item


def read_segments(path: Path) -> Iterator[Segment]:
    """Yield the segments of a JSON Lines or Parquet file of segment records."""
    for where, row in read_json_lines(path):
        yield segment_from_json(row, where)
