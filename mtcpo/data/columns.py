"""Text from the columns of a row: by name or by a template."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from mtcpo.core.errors import UserError, nearest


def check_template(template: str) -> str:
    """Return a template over columns, such as "{title}. {body}", if it can be filled.

    Raises:
        UserError: a lone brace, no column in it, or more in the braces than a column's name.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"template {template!r}: {error}; write {{{{ or }}}} for a brace") from None
    if any(spec or conversion or name == "" for _, name, spec, conversion in parts):
        raise UserError(f"template {template!r}: the name of a column is needed in the braces, and nothing else")
    if all(name is None for _, name, _, _ in parts):
        raise UserError(f"template {template!r}: there is no column in it; write {{name}} for the column 'name'")
    return template


def fill_template(template: str, row: Mapping[str, Any], where: str) -> str:
    """Return a checked template with a row's texts and numbers in it; braces in a text stay what they are.

    Raises:
        UserError: the row has no such column, or nothing in it that could be written.
    """
    parts = Formatter().parse(template)
    return "".join(literal + ("" if name is None else _written(row, name, where)) for literal, name, _, _ in parts)


def _written(row: Mapping[str, Any], name: str, where: str) -> str:
    if name not in row:
        raise UserError(f"{where}: no column {name!r}{nearest(name, row)}; it has {', '.join(sorted(row))}")
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UserError(f"{where}: column {name!r} is {type(value).__name__}, and a template needs text or a number")
    return str(value)


def column_text(row: Mapping[str, Any], name: str, key: str, where: str) -> str:
    """Return the text in a column, which the setting `key` names.

    Raises:
        UserError: no such column, or no text in it.
    """
    value = row.get(name)
    if not isinstance(value, str):
        has = f"{nearest(name, row)}; it has {', '.join(sorted(row))}" if name not in row else ", or it is no text"
        raise UserError(f"{where}: no column {name!r}{has}; set {key}")
    return value
