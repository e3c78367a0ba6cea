"""A source of rows that is the user's own code: `python:package.module:Class`.

The class is called with `data.options` as keyword arguments and gives an iterable of rows (mappings in any layout that
a file may have) or of our records. Whether it may run at all is decided where a name is read: see `check_allowed`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mtcpo.errors import UserError, choose
from mtcpo.records import Segment, Triplet, segment_to_json, triplet_to_json

PREFIX = "python:"


def is_code(name: str) -> bool:
    """Tell a name of code from those of files and data sets."""
    return name.startswith(PREFIX)


def check_allowed(name: str, allow_code: bool) -> str:
    """Return the name of a source if it is no code, or if code is allowed.

    Raises:
        UserError: it is code, and nobody at the command line allowed it: a recipe alone runs none.
    """
    if is_code(name) and not allow_code:
        raise UserError(f"{name} is code of somebody's own, which runs only if you pass --allow-code")
    return name


def code_rows(name: str, options: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("name:number", row) of what the user's class gives.

    Raises:
        UserError: it cannot be imported, called or iterated over, with its own error and the line where that arose.
    """
    make = find_code(name)
    try:
        items = iter(make(**options))
    except Exception as error:
        raise told_error(name, error) from error
    return rows_of(_told(items, name), name)


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


def code_file(name: str) -> str:
    """Return the file of the module that `name` names, by which a change of the code is noticed.

    Raises:
        UserError: there is no such module.
    """
    module = _module_of(name)[0]
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # the packages above it are imported, and may do anything
        raise told_error(name, error) from error
    if spec is None or spec.origin is None:
        raise UserError(f"{name}: no module {module!r} in {Path.cwd()} or the environment")
    return spec.origin


def _module_of(name: str) -> tuple[str, str]:
    module, _, attribute = name.removeprefix(PREFIX).partition(":")
    if not module or not attribute:
        raise UserError(f"{name!r}: write it as {PREFIX}package.module:Class")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: a folder of the user's must not hide an installed package
    return module, attribute


def find_code(name: str) -> Any:
    """Return what `python:package.module:name` names.

    Raises:
        UserError: it cannot be imported, or the module has no such name.
    """
    module, attribute = _module_of(name)
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise told_error(name, error) from error
    if not hasattr(found, attribute):
        public = [other for other in vars(found) if not other.startswith("_")]
        raise choose(f"name in {module}:", attribute, public)
    return getattr(found, attribute)


def _told(items: Iterator[Any], name: str) -> Iterator[Any]:
    """Yield the items; an error of the user's code is told as theirs."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except Exception as error:
            raise told_error(name, error) from error
        yield item


def told_error(name: str, error: Exception) -> UserError:
    """Return an error of the user's code as theirs, with its place."""
    if isinstance(error, UserError):
        return error
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if "importlib" not in frame.filename]
    place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    message = " ".join(str(error).split())
    return UserError(f"{name}: your code raised {type(error).__name__}{place}: {message}")
