"""Diagnostics of outputs without any metric: length, and counts of degenerate and off-target outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from mtcpo.data.language_id import count_wrong, why_unchecked
from mtcpo.data.records import Segment
from mtcpo.data.text_checks import adds_loop
from mtcpo.evaluation.testsets.testset import TestSet


class Diagnostics(TypedDict):
    """The first fields of `SystemScores`. length_ratio is None without references; a count is None if not checked."""

    length_ratio: float | None
    empty: int
    copied: int
    looping: int
    wrong_language: int | None


def diagnose(test_set: TestSet, texts: Sequence[str]) -> Diagnostics:
    """Return the diagnostics of a system's outputs. texts: one for each segment of the test set.

    length_ratio: characters of the outputs / characters of the references (their mean, where there are several).
    empty: outputs without a word. copied: source copies. looping: outputs with a repetition (four times or more in a
    row) where the source has none. wrong_language: off-target outputs.
    """
    empty = copied = looping = 0
    for text, segment in zip(texts, test_set.segments, strict=True):
        stripped = text.strip()
        empty += not stripped
        copied += bool(stripped) and stripped == segment.source.strip()
        looping += adds_loop(text, segment.source)
    # Language identification needs an optional package, which does not know every language.
    wrong_language = None
    if not why_unchecked(test_set.tgt_lang):
        references = [segment.references for segment in test_set.segments]
        wrong_language = count_wrong(texts, references, test_set.tgt_lang)
    return {
        "length_ratio": _length_ratio(test_set.segments, texts),
        "empty": empty,
        "copied": copied,
        "looping": looping,
        "wrong_language": wrong_language,
    }


def _length_ratio(segments: Sequence[Segment], texts: Sequence[str]) -> float | None:
    reference_chars = []
    for segment in segments:
        if not segment.references:
            return None  # a ratio over only some segments would not be comparable
        reference_chars.append(sum(map(len, segment.references)) / len(segment.references))
    total = sum(reference_chars)
    return sum(map(len, texts)) / total if total else None
