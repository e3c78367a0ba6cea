"""Templates: texts built from the columns of a row, and prompts.

There are two kinds. In a template over columns, every pair of braces holds the name of a column, and {{ and }} are
literal braces. A prompt template has a few fixed fields, and all other braces are literal: prompts may ask for JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from mtcpo.core.errors import UserError, nearest


def fill_fields(template: str, values: Mapping[str, str]) -> str:
    """Return a prompt template with each `{name}` of `values` filled in; braces inside a value are left alone."""
    pattern = "|".join(re.escape(f"{{{name}}}") for name in values)
    return re.sub(pattern, lambda match: values[match.group()[1:-1]], template)


def check_template(template: str) -> str:
    """Return a template over columns, such as "{title}. {body}", if it is valid.

    Raises:
        UserError: a lone brace, no column, or more than a column's name inside the braces.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"template {template!r}: {error}; write {{{{ or }}}} for a brace") from None
    names = []
    for _, name, spec, conversion in parts:
        if spec or conversion or name == "":
            raise UserError(f"template {template!r}: write the name of a column in the braces, and nothing else")
        if name is not None:
            names.append(name)
    if not names:
        raise UserError(f"template {template!r}: it names no column; write {{name}} for the column 'name'")
    return template


def fill_template(template: str, row: Mapping[str, Any], where: str) -> str:
    """Fill a checked template over columns with a row's texts and numbers; braces in them are left alone.

    Raises:
        UserError: the row has no such column, or its value is neither text nor a number.
    """
    filled = ""
    for literal, name, _, _ in Formatter().parse(template):
        filled += literal
        if name is not None:
            filled += _text_or_number(row, name, where)
    return filled


def _text_or_number(row: Mapping[str, Any], name: str, where: str) -> str:
    if name not in row:
        raise UserError(f"{where}: no column {name!r}{nearest(name, row)}; the row has {', '.join(sorted(row))}")
    value = row[name]
    # bool is a subclass of int, and nobody wants "True" in a sentence.
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UserError(f"{where}: column {name!r} is {type(value).__name__}, but a template needs text or a number")
    return str(value)


def column_text(row: Mapping[str, Any], name: str, key: str, where: str) -> str:
    """Return a row's text in the column `name`. key: the setting that names the column, for messages.

    Raises:
        UserError: no such column, or no text in it.
    """
    value = row.get(name)
    if isinstance(value, str):
        return value
    if name in row:
        raise UserError(f"{where}: column {name!r} is {type(value).__name__}, not text; name another one with {key}")
    raise UserError(f"{where}: no column {name!r}{nearest(name, row)}; the row has {', '.join(sorted(row))}; set {key}")
