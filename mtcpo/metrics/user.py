"""A metric of the user's own: a Python function, called only where the command line allows code to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtcpo.core.errors import UserError
from mtcpo.core.files import sha256_of
from mtcpo.core.user_code import explain_user_code, load_user_code, user_code_file
from mtcpo.data.records import Segment


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
        """Return where the function is, and the hash of that file."""
        return f"{self.path}|sha256:{self.source_hash}"

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the score of each candidate of each segment.

        Raises:
            UserError: the function raises something, or does not return one number for each.
        """
        sources = [segment.source for segment in segments for _ in segment.candidates]
        texts = [candidate.text for segment in segments for candidate in segment.candidates]
        references = [list(segment.references) for segment in segments for _ in segment.candidates]
        with explain_user_code(f"metric {self.name}={self.path}"):
            found = [float(score) for score in self.function(sources, texts, references)] if texts else []
        if len(found) != len(texts):
            raise UserError(f"metric {self.name}={self.path}: {len(found)} scores for {len(texts)} translations")
        sign = 1.0 if getattr(self.function, "higher_is_better", True) else -1.0
        scores = iter(found)
        return [[sign * next(scores) for _ in segment.candidates] for segment in segments]


def load_user_metric(name: str, path: str) -> UserMetric:
    """Import the function that `python:package.module:function` names.

    Raises:
        UserError: no such module or function, or its import fails.
    """
    function = load_user_code(path, f"metric {name}")
    return UserMetric(name, path, function, sha256_of(Path(user_code_file(path)))[:12])
