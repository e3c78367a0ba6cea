"""What outputs are like before any metric: length, and how many are empty, copied, looping, in a wrong language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtcpo.data.language_id import count_wrong, why_unchecked
from mtcpo.data.records import Segment
from mtcpo.data.text_checks import has_loop
from mtcpo.evaluation.testsets.testset import TestSet

SYMPTOMS = ("empty", "copied", "looping", "wrong_language")
"""Counted of every system, in evaluation.json's words; None: not checked."""


def describe(test_set: TestSet, texts: Sequence[str]) -> dict[str, Any]:
    """Return what a system's outputs are like.

    length_ratio: characters of the outputs / characters of the references (their mean, where there are several).
    empty, copied, looping, wrong_language: outputs without a word; that repeat their source; that say one thing four
    times or more in a row where the source does not; in another language (None: not checked).
    """
    pairs = list(zip(texts, test_set.segments, strict=True))
    unchecked = why_unchecked(test_set.tgt_lang)
    references = [segment.references for segment in test_set.segments]
    return {
        "length_ratio": _length_ratio(test_set.segments, texts),
        "empty": sum(not text.strip() for text in texts),
        "copied": sum(bool(text.strip()) and text.strip() == segment.source.strip() for text, segment in pairs),
        "looping": sum(has_loop(text) and not has_loop(segment.source) for text, segment in pairs),
        "wrong_language": None if unchecked else count_wrong(texts, references, test_set.tgt_lang),
    }


def _length_ratio(segments: Sequence[Segment], texts: Sequence[str]) -> float | None:
    if not all(segment.references for segment in segments):
        return None
    references = sum(sum(map(len, segment.references)) / len(segment.references) for segment in segments)
    return sum(map(len, texts)) / references if references else None
