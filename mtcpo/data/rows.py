"""Rows as a stream, from files, data sets, custom code, or memory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from mtcpo.core.errors import UserError, choose, first_line
from mtcpo.core.files import Row
from mtcpo.core.hub import is_hub_unreachable
from mtcpo.core.user_code import explain_user_code, is_user_code, load_user_code
from mtcpo.data.file_formats.registry import format_of, is_file, read_row_file, row_suffixes
from mtcpo.data.records import Segment, Triplet, segment_from_json, segment_to_json, triplet_to_json

Item = TypeVar("Item")


def require_first(items: Iterator[Item], message: str) -> Iterator[Item]:
    """Read the first item and return an iterator over all items, so that a mistake in it shows before any work.

    Raises:
        UserError: there is no item; the message is `message`.
    """
    first = next(items, None)
    if first is None:
        raise UserError(message)
    return chain([first], items)


def peek(items: Iterable[Item], count: int) -> tuple[list[Item], Iterator[Item]]:
    """Read at most `count` items; return them, and an iterator over all items, those included."""
    iterator = iter(items)
    first = list(islice(iterator, count))
    return first, chain(first, iterator)


def read_segments(path: Path) -> Iterator[Segment]:
    """Yield the segments of a file of segment records, JSON Lines or Parquet."""
    for where, row in read_row_file(path):
        yield segment_from_json(row, where)


def read_rows(
    name: str,
    subset: str | None = None,
    split: str = "train",
    options: Mapping[str, Any] | None = None,
    drops: Counter[str] | None = None,
) -> Iterator[Row]:
    """Yield ("file:line", row) of a file of rows, a data set, or custom code, which is called with `options`.

    A data set is a directory, for example one written by `save_to_disk`, or a name on the hub. drops: counts an
    incomplete last line; see `read_row_file`.

    Raises:
        UserError: a missing file, a file that is not in a format of rows, or a data set that cannot be loaded.
    """
    if is_user_code(name):
        return _code_rows(name, options or {})
    path = Path(name)
    if format_of(name) is not None:
        return read_row_file(path, drops)
    if is_file(name):
        problem = f"not a file of rows; its name must end in {row_suffixes()}" if path.exists() else "no such file"
        raise UserError(f"{path}: {problem}")
    return _dataset_rows(name, subset, split)


# --- data sets --------------------------------------------------------------------------------------------------------


def _dataset_rows(name: str, subset: str | None, split: str) -> Iterator[Row]:
    with _explain_datasets(name):
        rows = iter(_load_dataset(name, subset, split))
    number = 0
    while True:
        number += 1
        # A damaged file or a lost connection shows only while the rows are read.
        with _explain_datasets(name):
            row = next(rows, None)
        if row is None:
            return
        yield f"{name}:{number}", row


@contextmanager
def _explain_datasets(name: str) -> Iterator[None]:
    """Turn any exception of datasets into a UserError: it raises some twenty classes, its own and the network's."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # A DatasetGenerationError itself says nothing; its cause does.
        is_wrapper = type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None
        cause = error.__cause__ if is_wrapper else error
        assert cause is not None
        raise UserError(
            f"{name}: neither a file nor a data set that can be loaded ({type(cause).__name__}: {first_line(cause)}); "
            "check the name and its subset, or save it on another machine with save_to_disk and give that directory"
        ) from error


def _load_dataset(name: str, subset: str | None, split: str) -> Iterable[dict[str, Any]]:
    import datasets

    folder = Path(name)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        loaded = datasets.load_from_disk(name)
    else:
        with _without_retries(folder.is_dir()):
            loaded = datasets.load_dataset(name, subset, streaming=True)
    if not isinstance(loaded, dict):
        return loaded  # type: ignore[no-any-return]
    if split not in loaded:
        raise choose(f"split of {name}", split, loaded)
    return loaded[split]  # type: ignore[no-any-return]


@contextmanager
def _without_retries(local: bool) -> Iterator[None]:
    """Without network, set datasets offline: it would retry for half a minute and print ten lines about it.

    Offline, it still finds what is in its cache.
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


# --- custom code and rows in memory -----------------------------------------------------------------------------------


def _code_rows(name: str, options: Mapping[str, Any]) -> Iterator[Row]:
    """Yield ("name:number", row) of the rows that a user's class or function yields.

    Raises:
        UserError: it cannot be imported, called or iterated over; the message has the original error and its line.
    """
    make_rows = load_user_code(name)
    with explain_user_code(name):
        items = iter(make_rows(**options))
    return rows_of(_explained_items(items, name), name)


def _explained_items(items: Iterator[Any], name: str) -> Iterator[Any]:
    """Yield the items of custom code; its exceptions become UserErrors."""
    end = object()
    while True:
        with explain_user_code(name):
            item = next(items, end)
        if item is end:
            return
        yield item


def rows_of(items: Iterable[Any], name: str) -> Iterator[Row]:
    """Yield ("name:number", row) of rows or records in memory: a list, a `datasets.Dataset`, anything iterable.

    Raises:
        UserError: an item is neither a mapping nor a record, or `items` is a mapping of splits.
    """
    if isinstance(items, Mapping):
        raise UserError(f"{name}: a dictionary of splits ({', '.join(map(str, items))}); give one of them")
    for number, item in enumerate(items, start=1):
        where = f"{name}:{number}"
        yield where, _to_row(item, where)


def _to_row(item: Any, where: str) -> dict[str, Any]:
    if isinstance(item, Segment):
        return segment_to_json(item)
    if isinstance(item, Triplet):
        return triplet_to_json(item)
    if isinstance(item, Mapping):
        return dict(item)
    raise UserError(f"{where}: a row is a mapping, a Segment or a Triplet, not {type(item).__name__}")
