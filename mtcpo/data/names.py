"""Names of systems and test sets: they come from data and become names of files and folders."""

from __future__ import annotations

from mtcpo.core.errors import UserError

MAX_NAME_BYTES = 200
"""File systems allow 255; the rest is room for our suffixes."""

FORBIDDEN = frozenset('/\\:"')
"""Path separators, and characters that Windows refuses or that end a field in a spreadsheet."""


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is safe as a file name. kind: what it names, for the message: "system", "test set".

    Raises:
        UserError: blank, too long, hidden (`.x`), or with a path separator, colon, quote or control character.
    """
    if not name.strip():
        raise UserError(f"{kind} name {name!r} is blank; give a name, for example base")
    is_plain = name.isprintable() and not name.startswith(".") and FORBIDDEN.isdisjoint(name)
    # isprintable comes first: a lone surrogate, from a file name that is not UTF-8, cannot be encoded.
    if not is_plain or len(name.encode("utf-8")) > MAX_NAME_BYTES:
        raise UserError(
            f"{kind} name {name!r}: write it without path separators, colons, quotes, control characters or a leading "
            f"dot, in at most {MAX_NAME_BYTES} bytes: files are named after it"
        )
    return name


def check_system_name(name: str) -> str:
    """Return `name` if it can name a system and the file of its translations; see `check_name`."""
    return check_name("system", name)
