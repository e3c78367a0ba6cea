"""Custom metrics: a Python function, or an object that derives from `NeuralMetric`.

On the command line and in recipes, a custom metric is named `NAME=python:package.module:name` and runs only with
--allow-code. From Python, the function or object itself is passed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, counted
from mtcpo.core.files import sha256_of
from mtcpo.core.user_code import code_name, explain_user_code, load_user_code, user_code_file
from mtcpo.data.records import Segment
from mtcpo.metrics.base import NeuralMetric

HASH_DIGITS = 12


@dataclass(frozen=True, slots=True)
class UserMetric(NeuralMetric):
    """A function (sources, hypotheses, references) -> scores; all four are lists of the same length.

    references: a list of texts for each hypothesis, empty if there are none. Higher is better, unless the function has
    an attribute `higher_is_better = False`; its scores are then stored negated, like TER's. The corpus score is the
    mean. version: distinguishes its scores from those of other code under the same path.
    """

    name: str
    path: str
    function: Callable[[list[str], list[str], list[list[str]]], Sequence[float]]
    version: str
    higher_is_better: bool = True
    needs_references: bool = False

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the function's path and version."""
        return f"{self.path}|{self.version}"

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return scores[segment][candidate], higher is better.

        Raises:
            UserError: The function raises an exception, or does not return one number for each translation.
        """
        sources: list[str] = []
        hypotheses: list[str] = []
        references: list[list[str]] = []
        for segment in segments:
            for candidate in segment.candidates:
                sources.append(segment.source)
                hypotheses.append(candidate.text)
                references.append(list(segment.references))
        scores = iter(self._call(sources, hypotheses, references))
        sign = 1.0 if self.higher_is_better else -1.0
        rows: list[list[float]] = []
        for segment in segments:
            rows.append([sign * next(scores) for _ in segment.candidates])
        return rows

    def _call(self, sources: list[str], hypotheses: list[str], references: list[list[str]]) -> list[float]:
        if not hypotheses:
            return []  # a custom function need not handle an empty batch
        what = f"metric {self.name}={self.path}"
        with explain_user_code(what):
            # float inside the block: a result that is not a number is the user's mistake too.
            scores = list(map(float, self.function(sources, hypotheses, references)))
        if len(scores) != len(hypotheses):
            raise UserError(f"{what}: {counted(len(scores), 'score')} for {counted(len(hypotheses), 'translation')}")
        return scores


def load_user_metric(name: str, path: str) -> NeuralMetric:
    """Import the metric that `python:package.module:name` names.

    Raises:
        UserError: No such module or name, its import fails, or it is not a metric.
    """
    target = load_user_code(path, f"metric {name}", _find_problem)
    if not isinstance(target, NeuralMetric):
        return _user_metric(target, name, path, _hash_of_file(Path(user_code_file(path))))
    # Otherwise reports would have the same metric under two names, from the command line and from Python.
    if target.name != name:
        raise UserError(f"metric {name}={path}: its own name is {target.name!r}; write {target.name}={path}")
    return target


def metric_of(target: Any) -> tuple[NeuralMetric, str]:
    """Return the metric for a Python object (function or `NeuralMetric`), and `python:module:name` of its code.

    A function's name in reports is its attribute `name`, else its `__name__`. Scores are cached under the hash of its
    source; a function that depends on more, such as a model's weights, needs an attribute `version`.

    Raises:
        UserError: It is not a metric, has no name, or its source cannot be read.
    """
    load_user_code(target, "metric", _find_problem)
    # A function has a name and source; for an object, its class has them.
    code = target if hasattr(target, "__qualname__") else type(target)
    path = code_name(target)
    name = getattr(target, "name", getattr(target, "__name__", type(target).__name__))
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
        raise UserError(f"metric {path}: a metric needs a name; set its attribute `name`, or write it with def")
    if isinstance(target, NeuralMetric):
        return target, path
    version = f"version:{target.version}" if hasattr(target, "version") else _hash_of_source(code, path)
    return _user_metric(target, name, path, version), path


def _find_problem(target: Any) -> str:
    """Return why an object is not a metric, or "" if it is one."""
    if isinstance(target, NeuralMetric) or (callable(target) and not isinstance(target, type)):
        return ""
    kind = "a class" if isinstance(target, type) else f"of type {type(target).__name__}"
    return f"it is {kind}; a metric is a function (sources, hypotheses, references) -> scores, or a NeuralMetric object"


def _user_metric(function: Any, name: str, path: str, version: str) -> UserMetric:
    return UserMetric(name, path, function, version, bool(getattr(function, "higher_is_better", True)))


def _hash_of_file(file: Path) -> str:
    return f"sha256:{sha256_of(file)[:HASH_DIGITS]}"


def _hash_of_source(code: Any, path: str) -> str:
    """Return the hash of the module's file, as on the command line, or of a notebook cell's source."""
    try:
        # A notebook cell has something like a file name, but no file.
        file = inspect.getsourcefile(code)
        if file is not None and Path(file).is_file():
            return _hash_of_file(Path(file))
        return f"sha256:{sha256(inspect.getsource(code).encode()).hexdigest()[:HASH_DIGITS]}"
    except (OSError, TypeError):
        raise UserError(f"metric {path}: its source cannot be read; set its attribute `version`") from None
