"""Custom Python code: what a user names as `python:package.module:name` in place of something that mtcpo has.

A source of rows, a metric, a loss, a selection or a model family may be named so; in Python the object itself may be
given. All of them come in by the same door:

- `check_code_allowed`, or in a configuration `CodeIfAllowed`, refuses a name unless the command line has --allow-code.
  It runs when settings are read, before any work, and imports nothing.
- `load_user_code` imports the object and checks that it is of the kind that is needed.
- `explain_user_code` surrounds each call of it, so that an error raised there is reported as the user's, in one line.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import AfterValidator, ValidationInfo

from mtcpo.core.config import as_value_error
from mtcpo.core.errors import UserError, choose, one_line
from mtcpo.core.resources import PACKAGE

PREFIX = "python:"


def code_name(value: Any) -> str:
    """Return `python:module:name` of a function or object given in Python: settings and reports record it so."""
    # An object with __call__ has no name of its own.
    code = value if hasattr(value, "__qualname__") else type(value)
    return f"{PREFIX}{code.__module__}:{code.__qualname__}"


# --- permission -------------------------------------------------------------------------------------------------------


def is_user_code(name: str) -> bool:
    """Whether a name is that of custom code, and not of a file, a data set or something that mtcpo has."""
    return name.startswith(PREFIX)


def check_code_allowed(name: str, allow_code: bool) -> str:
    """Return `name` unless it names custom code that may not run.

    Raises:
        UserError: it names code, and the command line did not allow any: a recipe alone runs none.
    """
    if is_user_code(name) and not allow_code:
        raise UserError(f"{name} is custom Python code; pass --allow-code to run it")
    return name


@as_value_error()
def _check_by_context(name: str, info: ValidationInfo) -> str:
    return check_code_allowed(name, bool(info.context and info.context.get("allow_code")))


CodeIfAllowed = AfterValidator(_check_by_context)
"""Annotation of a string field of a `Config` that may name custom code: `Annotated[str, CodeIfAllowed]`.

Whether code is allowed is the `allow_code` of `load_section`.
"""


# --- import -----------------------------------------------------------------------------------------------------------


def needs_callable(value: Any) -> str:
    """Return what is wrong with an object that must be a function or a class; "" where nothing is."""
    return "" if callable(value) else f"it is a {type(value).__name__}, not a function"


def needs_attributes(*names: str) -> Callable[[Any], str]:
    """Return the check, as for `load_user_code`, that an object has all of these attributes."""

    def find_problem(value: Any) -> str:
        missing = [name for name in names if not hasattr(value, name)]
        return f"it is a {type(value).__name__} without {', '.join(missing)}" if missing else ""

    return find_problem


def load_user_code(entry: Any, use: str = "", find_problem: Callable[[Any], str] = needs_callable) -> Any:
    """Return the object that `entry` names, or `entry` itself where it is no name: in Python, objects may be given.

    use: where the entry was given, for messages: "metric length", "train.loss". find_problem: returns what is wrong
    with an object of another kind than the one needed, or "" where it will do.

    Raises:
        UserError: it cannot be imported, the module has no such name, or it is of another kind.
    """
    value = _import_named(entry) if isinstance(entry, str) else entry
    problem = find_problem(value)
    if problem:
        name = entry if isinstance(entry, str) else repr(entry)
        raise UserError(f"{use}: {name}: {problem}" if use else f"{name}: {problem}")
    return value


def _import_named(name: str) -> Any:
    module, attribute = _split_name(name)
    with explain_user_code(name), _working_directory_on_path():
        imported = importlib.import_module(module)
    if not hasattr(imported, attribute):
        public = [other for other in vars(imported) if not other.startswith("_")]
        raise choose(f"name in {module}:", attribute, public)
    return getattr(imported, attribute)


def user_code_file(name: str) -> str:
    """Return the file of the module that `name` names, whose hash shows whether the code has changed.

    Raises:
        UserError: there is no such module.
    """
    module, _ = _split_name(name)
    # To find package.module, package is imported, and its code may raise anything.
    with explain_user_code(name), _working_directory_on_path():
        spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UserError(f"{name}: no module {module!r} in {Path.cwd()} or the environment")
    return spec.origin


def _split_name(name: str) -> tuple[str, str]:
    module, _, attribute = name.removeprefix(PREFIX).partition(":")
    if not module or not attribute:
        raise UserError(f"{name!r}: write it as {PREFIX}package.module:name")
    return module, attribute


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """Let modules be imported from the working directory, for the time of one import only.

    Left on the path, any file there could stand in for a module that mtcpo or another package imports later.
    """
    folder = str(Path.cwd())
    sys.path.append(folder)  # last: a file of the user's must not hide an installed package
    # Modules written since the last import are found too.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # From the end: the same folder may also have been there before.
        for index in reversed(range(len(sys.path))):
            if sys.path[index] == folder:
                del sys.path[index]
                break


# --- errors -----------------------------------------------------------------------------------------------------------


@contextmanager
def explain_user_code(name: str) -> Iterator[None]:
    """Report an exception that custom code raises inside the block as the user's."""
    try:
        yield
    except Exception as error:
        raise user_code_error(name, error) from error


def user_code_error(name: str, error: Exception) -> UserError:
    """Return an exception that custom code raised as a UserError, with the line of the user's file."""
    if isinstance(error, UserError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if _is_outside(frame.filename)]
    place = f" at {outside[-1].filename}:{outside[-1].lineno}" if outside else ""
    return UserError(f"{name}: your code raised {type(error).__name__}{place}: {one_line(error)}")


def _is_outside(file: str) -> bool:
    """Whether a frame's file is neither ours nor part of Python's import machinery."""
    return not Path(file).is_relative_to(PACKAGE) and "importlib" not in file
