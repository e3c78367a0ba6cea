"""Custom selections: functions from a pool to pairs, like those of the catalogue, whose results are checked.

In Python, the function itself is passed, `build_preferences(..., select=function)`. On the command line and in recipes
it is named, `select = "python:module:function"`, and runs only with --allow-code. For example, the best and the median:

    def best_median(pool):                  # pool.candidates, pool.values: (K,), higher is better
        ranked = sorted(pool.others(pool.best), key=lambda index: pool.values[index])
        return [(pool.best, ranked[len(ranked) // 2])]      # (chosen, rejected): indices into pool.candidates

It is called once for each source with two or more candidates, and may return any number of pairs, including none.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo

from mtcpo.core.config import as_value_error
from mtcpo.core.errors import UserError, choose
from mtcpo.core.user_code import check_code_allowed, code_name, explain_user_code, is_user_code, load_user_code
from mtcpo.preferences.selections import SELECTIONS, Pair, Pool, SelectionFunction


def selection_name(select: str | SelectionFunction) -> str:
    """Return the name of a selection for reports: the configured name, or where a callable is defined."""
    return select if isinstance(select, str) else code_name(select)


@as_value_error()
def _check_selection(select: Any, info: ValidationInfo) -> Any:
    """Refuse a name that is neither in the catalogue nor allowed code; callables (from Python) pass."""
    if not isinstance(select, str):
        return select
    if not is_user_code(select) and select not in SELECTIONS:
        raise choose("selection", select, SELECTIONS)
    return check_code_allowed(select, bool(info.context and info.context.get("allow_code")))


# A report or a stamp cannot hold a function, so in JSON and TOML a callable is replaced by its name.
Select = Annotated[
    str | SelectionFunction, BeforeValidator(_check_selection), PlainSerializer(selection_name, return_type=str)
]
"""A selection in a configuration: a name of the catalogue, `python:module:function`, or a callable."""


def load_selection(select: str | SelectionFunction) -> SelectionFunction:
    """Return the function of a selection; a custom one is wrapped so that its pairs are checked at every call.

    Raises:
        UserError: the module cannot be imported, or the object is not callable. At a call: the custom code raises an
            exception, or returns an invalid pair.
    """
    if isinstance(select, str) and select in SELECTIONS:
        return SELECTIONS[select].select
    name = f"select {selection_name(select)}"
    function = load_user_code(select, "select")

    def select_checked(pool: Pool) -> list[Pair]:
        with explain_user_code(name):
            pairs = list(function(pool))
        return [_check_pair(pair, pool, f"{name}: segment {pool.segment.id}") for pair in pairs]

    return select_checked


def _check_pair(pair: Any, pool: Pool, where: str) -> Pair:
    """Check a pair that a custom selection returned, and convert its indices to int.

    Raises:
        UserError: not two indices, an index out of range, the same text twice, or the reference is not chosen.
    """
    try:
        # Indices may be NumPy integers.
        chosen, rejected = map(operator.index, pair)
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: {pair!r} is not a pair; return tuples (chosen, rejected) of indices into pool.candidates"
        ) from None
    where, count = f"{where}: pair {(chosen, rejected)}", len(pool.candidates)
    if not (0 <= chosen < count and 0 <= rejected < count):
        raise UserError(f"{where} names a candidate that is not in the pool; it has {count}, numbered from 0")
    if pool.candidates[chosen].text.strip() == pool.candidates[rejected].text.strip():
        raise UserError(f"{where} has the same text twice; a pair needs two different translations")
    if pool.reference not in (None, chosen):
        raise UserError(f"{where} does not choose the reference; with reference = 'always', choose pool.best")
    return chosen, rejected
