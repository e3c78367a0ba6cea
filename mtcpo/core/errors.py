"""The one exception that means "the user can mend this", and the help that its message gives."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's: one line that says what, where, and the way out. Exit code 2, no traceback."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the choice closest to `name`, or "" when none is close."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def choose(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """Return the error for a `name` that is not among `choices`; the message lists them and names the nearest."""
    known = sorted(choices)
    return UserError(f"unknown {kind} {name!r}{nearest(name, known)}; choose from {', '.join(known)}")
