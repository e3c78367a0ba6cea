"""UserError, the exception for everything that the user can fix; helpers for its message and for that of interrupts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A problem that the user can fix. One line: what, where, the way out. Exit code 2, no traceback."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the exception's class name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """Return an exception's whole message, with its line breaks replaced by spaces."""
    return " ".join(str(error).split())


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 segment", "2 segments"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the choice closest to `name`, or "" when none is close."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def choose(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """Return the error for a `name` that is not among `choices`; the message lists them and names the nearest."""
    listed = sorted(choices)
    return UserError(f"unknown {kind} {name!r}{nearest(name, listed)}; choose from {', '.join(listed)}")


@contextmanager
def standing(describe: Callable[[], str]) -> Iterator[None]:
    """Note on an exception of the block where the work stands ("saved at step 679 of 1,668"), for an interrupt's line.

    Blocks may be nested: a stage of a run, and the training in it.
    """
    try:
        yield
    # Not KeyboardInterrupt alone: another package may have turned it into its own exception.
    except BaseException as error:
        error.add_note(describe())
        raise


def standing_of(error: BaseException) -> str:
    """Return where the work stood at an interrupt, outermost first; "" if nothing is known."""
    return ", ".join(filter(None, reversed(getattr(error, "__notes__", []))))
