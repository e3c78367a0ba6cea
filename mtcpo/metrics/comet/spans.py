"""Decode error spans from token labels as COMET does, for many translations at a time.

Dimensions: T tokens of all translations, concatenated; C labels; label 0 means "no error".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtcpo.data.records import ErrorSpan
from mtcpo.metrics.comet.tokens import Text

if TYPE_CHECKING:
    from torch import Tensor

# Freitag et al. 2021 (arXiv 2104.14478): penalty of an error; the worst translation has 25.
PENALTIES = {"minor": 1, "major": 5, "critical": 10}
MAX_PENALTY = 25


@dataclass(frozen=True)
class Predictions:
    """Scores of rows, in order, and each translation's error spans; None for models that only score."""

    scores: list[float]
    spans: list[list[ErrorSpan]] | None = None


@dataclass(frozen=True)
class Run:
    """A run of tokens with error labels, [first, end); the label of its first token is the severity.

    confidence: mean probability of its tokens' labels, 0 to 1.
    """

    first: int
    end: int
    label: int
    confidence: float


def find_runs(probabilities: Tensor, lengths: Sequence[int]) -> list[list[Run]]:
    """Return each translation's runs of tokens whose most likely label is an error.

    As in COMET, a run counts only if an error-free token follows it: one that reaches the last token is dropped.

    Args:
        probabilities: Label probabilities, or their weighted sum over several inputs. Shape (T, C).
        lengths: Tokens of each translation, special tokens included; their sum is T.
    """
    # topk, as in COMET: argmax may break ties differently.
    top = probabilities.topk(1, dim=-1)
    confidences, labels = top.values[:, 0].cpu(), top.indices[:, 0].tolist()
    runs: list[list[Run]] = []
    start = 0
    for length in lengths:
        segment_labels, segment_confidences = labels[start : start + length], confidences[start : start + length]
        translation_runs: list[Run] = []
        for first, end in _error_runs(segment_labels):
            confidence = segment_confidences[first:end].mean().item()
            translation_runs.append(Run(first, end, segment_labels[first], confidence))
        runs.append(translation_runs)
        start += length
    return runs


def _error_runs(labels: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first, end) of each run of nonzero labels that is followed by a 0."""
    runs: list[tuple[int, int]] = []
    first = None
    for position, label in enumerate(labels):
        if label and first is None:
            first = position
        elif not label and first is not None:
            runs.append((first, position))
            first = None
    return runs


def mqm_score(runs: Sequence[Run], severities: Sequence[str]) -> float:
    """Return the MQM score: 1 for no error, 0 for the worst. severities: label -> severity, "" for label 0."""
    penalty = sum(PENALTIES.get(severities[run.label], 0) for run in runs)
    return (MAX_PENALTY - min(penalty, MAX_PENALTY)) / MAX_PENALTY


def to_spans(runs: Sequence[Run], translation: Text, severities: Sequence[str], tokenizer: Any) -> list[ErrorSpan]:
    """Convert runs of a translation's tokens to error spans, with text and character offsets."""
    spans: list[ErrorSpan] = []
    for run in runs:
        spans.append(
            ErrorSpan(
                text=tokenizer.decode(translation.ids[run.first : run.end]),
                start=translation.offsets[run.first][0],
                end=translation.offsets[run.end - 1][1],
                severity=severities[run.label],
                confidence=run.confidence,
            )
        )
    return spans
