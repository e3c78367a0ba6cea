"""A source of rows that is the user's own code: `python:package.module:Class`.

The class is called with `data.options` as keyword arguments and gives an iterable of rows (mappings in any layout that
a file may have) or of our records. Whether it may run at all is decided where a name is read: see `check_allowed`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, choose
from mtcpo.core.resources import PACKAGE

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


def code_file(name: str) -> str:
    """Return the file of the module that `name` names, by which a change of the code is noticed.

    Raises:
        UserError: there is no such module.
    """
    module = _module_of(name)[0]
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # the packages above it are imported, and may do anything
        raise user_code_error(name, error) from error
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
        raise user_code_error(name, error) from error
    if not hasattr(found, attribute):
        public = [other for other in vars(found) if not other.startswith("_")]
        raise choose(f"name in {module}:", attribute, public)
    return getattr(found, attribute)


def user_code_error(name: str, error: Exception) -> UserError:
    """Return an error of the user's code as theirs, with its place."""
    if isinstance(error, UserError):
        return error
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not Path(frame.filename).is_relative_to(PACKAGE)
    ]
    own = [frame for frame in frames if "importlib" not in frame.filename]
    place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    message = " ".join(str(error).split())
    return UserError(f"{name}: your code raised {type(error).__name__}{place}: {message}")
