"""Custom code: Python code of the user's, named as `python:package.module:name`.

A source of rows, a metric, a loss, a selection or a model family may be custom code. From Python, the object itself
may be passed instead of its name. All of them go through these functions:

- `check_code_allowed`, or in a configuration `CodeIfAllowed`, refuses a name unless the command line has --allow-code.
  It is called when settings are read, before any work, and imports nothing.
- `load_user_code` imports the object and checks that it is of the required kind.
- `explain_user_code` wraps every call of it, so that an exception raised there is reported in one line as the user's.
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
    """Return `python:module:name` of an object passed from Python, for settings and reports."""
    # An object with __call__ has no name of its own.
    code = value if hasattr(value, "__qualname__") else type(value)
    return f"{PREFIX}{code.__module__}:{code.__qualname__}"


# --- permission -------------------------------------------------------------------------------------------------------


def is_user_code(name: str) -> bool:
    """Whether a name means custom code, not a file, a data set or an entry of one of mtcpo's catalogues."""
    return name.startswith(PREFIX)


def check_code_allowed(name: str, allow_code: bool) -> str:
    """Return `name`; refuse it if it names custom code and `allow_code` is off.

    Raises:
        UserError: custom code, and the command line has no --allow-code: a recipe alone must not run code.
    """
    if is_user_code(name) and not allow_code:
        raise UserError(f"{name} is custom Python code; pass --allow-code to run it")
    return name


@as_value_error()
def _check_by_context(name: str, info: ValidationInfo) -> str:
    return check_code_allowed(name, bool(info.context and info.context.get("allow_code")))


CodeIfAllowed = AfterValidator(_check_by_context)
"""Annotation of a string field of a `Config` that may name custom code: `Annotated[str, CodeIfAllowed]`.

`load_section(allow_code=...)` decides whether code is allowed.
"""


# --- import -----------------------------------------------------------------------------------------------------------


def needs_callable(value: Any) -> str:
    """Return why an object is not a function or a class, or "" if it is one."""
    return "" if callable(value) else f"it is a {type(value).__name__}, not a function"


def needs_attributes(*names: str) -> Callable[[Any], str]:
    """Return a check for `load_user_code`: an object must have all of these attributes."""

    def find_problem(value: Any) -> str:
        missing = [name for name in names if not hasattr(value, name)]
        return f"it is a {type(value).__name__} without {', '.join(missing)}" if missing else ""

    return find_problem


def load_user_code(entry: Any, use: str = "", find_problem: Callable[[Any], str] = needs_callable) -> Any:
    """Import the object that `entry` names; an `entry` that is not a string is the object itself.

    use: what the object is for, in messages: "metric length", "train.loss". find_problem: returns why an object is not
    of the required kind, or "" if it is.

    Raises:
        UserError: it cannot be imported, the module has no such name, or the object is of the wrong kind.
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
    """Return the file of the module in `name`; its hash shows whether the code has changed.

    Raises:
        UserError: there is no such module.
    """
    module, _ = _split_name(name)
    # Finding package.module imports package, whose code may raise anything.
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
    """Allow imports from the working directory inside the block.

    If it stayed on the path, a file there could shadow a module that mtcpo or another package imports later.
    """
    folder = str(Path.cwd())
    sys.path.append(folder)  # last: a file of the user's must not hide an installed package
    # So that modules written since the last import are found.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # From the end: the same folder may already have been on the path before.
        for index in reversed(range(len(sys.path))):
            if sys.path[index] == folder:
                del sys.path[index]
                break


# --- errors -----------------------------------------------------------------------------------------------------------


@contextmanager
def explain_user_code(name: str) -> Iterator[None]:
    """Turn an exception that custom code raises inside the block into a UserError."""
    try:
        yield
    except Exception as error:
        raise user_code_error(name, error) from error


def user_code_error(name: str, error: Exception) -> UserError:
    """Return the UserError for an exception of custom code, with the line in the user's file."""
    if isinstance(error, UserError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if _is_outside(frame.filename)]
    place = f" at {outside[-1].filename}:{outside[-1].lineno}" if outside else ""
    return UserError(f"{name}: your code raised {type(error).__name__}{place}: {one_line(error)}")


def _is_outside(file: str) -> bool:
    """Whether a frame's file belongs neither to mtcpo nor to Python's import machinery."""
    return not Path(file).is_relative_to(PACKAGE) and "importlib" not in file
