"""Error spans of translations, as the library decodes them, for many translations at a time.

Dimensions: T tokens of all translations, one after the other; C labels; label 0 means "no error".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtcpo.data.records import ErrorSpan

if TYPE_CHECKING:
    from torch import Tensor

# Freitag et al. 2021 (arXiv 2104.14478): what an error costs; the worst translation has 25.
PENALTIES = {"minor": 1, "major": 5, "critical": 10}
MAX_PENALTY = 25


@dataclass(frozen=True)
class Predictions:
    """Scores of rows, in their order, and the errors found in each translation by the models that find them."""

    scores: list[float]
    spans: list[list[ErrorSpan]] | None = None


@dataclass(frozen=True)
class Run:
    """A run of tokens with error labels, from `first` to before `end`; the first one's label names the severity.

    confidence: mean probability of its tokens' labels.
    """

    first: int
    end: int
    label: int
    confidence: float


def find_runs(probabilities: Tensor, lengths: Sequence[int]) -> list[list[Run]]:
    """Return the runs of each translation whose most likely label is an error.

    A run counts only where a token without an error ends it: one that reaches the end of the tokens is none, as in the
    library.

    Args:
        probabilities: Of the labels, or their weighted sum over several inputs. Shape (T, C).
        lengths: Tokens of each translation, specials included; together T.
    """
    best, labels = (found[:, 0].cpu() for found in probabilities.topk(1, dim=-1))
    every = labels.tolist()
    found, start = [], 0
    for length in lengths:
        row, certainty = every[start : start + length], best[start : start + length]
        found.append([Run(a, b, row[a], certainty[a:b].mean().item()) for a, b in _errors(row)])
        start += length
    return found


def _errors(labels: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first, end) of each run of labels other than 0 that a 0 ends."""
    found, first = [], None
    for position, label in enumerate(labels):
        if label and first is None:
            first = position
        elif not label and first is not None:
            found.append((first, position))
            first = None
    return found


def mqm_score(runs: Sequence[Run], severities: Sequence[str]) -> float:
    """Return 1 for no error, 0 for the worst. severities: of each label, "" of label 0."""
    penalty = sum(PENALTIES.get(severities[run.label], 0) for run in runs)
    return (MAX_PENALTY - min(penalty, MAX_PENALTY)) / MAX_PENALTY


def to_spans(
    runs: Sequence[Run], ids: Sequence[int], offsets: Sequence[tuple[int, int]], severities: Sequence[str],
    tokenizer: Any,
) -> list[ErrorSpan]:  # fmt: skip
    """Return the runs with their text and place. ids, offsets: of the tokens of the model's input."""
    return [
        ErrorSpan(
            text=tokenizer.decode(ids[run.first : run.end]),
            start=offsets[run.first][0],
            end=offsets[run.end - 1][1],
            severity=severities[run.label],
            confidence=run.confidence,
        )
        for run in runs
    ]
