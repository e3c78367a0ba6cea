"""A metric of the user's own: a Python function, called only where the command line allows code to run."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtcpo.errors import UserError
from mtcpo.records import Segment


@dataclass(frozen=True, slots=True)
class UserMetric:
    """A function (sources, hypotheses, references) -> scores: three lists of one length, one number for each.

    references: a list of texts for each hypothesis. Higher is better, unless the function has an attribute
    `higher_is_better = False`; then its scores are stored negated, as TER's are. source_hash: of its module's file.
    """

    name: str
    path: str
    function: Callable[[list[str], list[str], list[list[str]]], Sequence[float]]
    source_hash: str

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the dotted path, and the hash of the file that the function is in."""
        return f"code:{self.path}|sha256:{self.source_hash}"

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the score of each candidate of each segment."""
        rows = [(s.source, c.text, list(s.references)) for s in segments for c in s.candidates]
        if not rows:
            return [[] for _ in segments]
        found = self.function(*map(list, zip(*rows, strict=True)))
        try:
            numbers = [float(score) for score in found]
        except (TypeError, ValueError) as error:
            raise UserError(f"metric {self.name}: {self.path} must return a list of numbers ({error})") from None
        if len(numbers) != len(rows):
            raise UserError(f"metric {self.name}: {self.path} returned {len(numbers)} scores for {len(rows)} rows")
        sign = 1.0 if getattr(self.function, "higher_is_better", True) else -1.0
        scores = iter(numbers)
        return [[sign * next(scores) for _ in segment.candidates] for segment in segments]


def load_user_metric(name: str, path: str) -> UserMetric:
    """Import the function that a dotted path names; modules of the working directory are found too.

    Raises:
        UserError: no such module or function, or its import fails.
    """
    module_name, dot, function_name = path.rpartition(".")
    if not dot:
        raise UserError(f"metric {name}={path}: give the function by its dotted path, {name}=package.module.function")
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything while it is imported
        raise UserError(f"metric {name}: {module_name} cannot be imported ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"metric {name}: {module_name} has no function {function_name!r}")
    return UserMetric(name, path, function, _hash_of(module))


def _hash_of(module: Any) -> str:
    file = inspect.getsourcefile(module)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else "unknown"
