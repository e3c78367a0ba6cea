"""Which texts are in another language than the target's, by the optional package lingua.

Short and odd lines (a name, a title) deceive every such tool. So an output counts as wrong only where the reference of
its segment is recognised as the target language, and one that shares its words with a reference is not asked about; a
candidate, which may have no reference, only where the target's language is next to impossible.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from mtcpo.languages import macro_language

MIN_LETTERS = 12
"""Texts with fewer letters are not judged."""

SHARED_WORDS = 1 / 3
"""Of an output's words, this share in one of the references: it is in their language."""

MIN_CONFIDENCE = 0.05
"""Below this the target's language is next to impossible: names and single words are ambiguous by nature."""

WORD = re.compile(r"\w+")


def why_unchecked(tgt_lang: str) -> str:
    """Return why outputs in this language cannot be checked, or "" where they can."""
    if importlib.util.find_spec("lingua") is None:
        return "lingua is not installed: pip install 'mtcpo[langid]'"
    return "" if macro_language(tgt_lang) in _known() else f"lingua does not know {tgt_lang!r}"


def count_wrong(texts: Sequence[str], references: Sequence[Sequence[str]], tgt_lang: str) -> int:
    """Return how many texts are in another language than `tgt_lang`; `why_unchecked` must be empty.

    references: of each segment; where it has none its text is judged by itself.
    """
    doubtful = [
        (text, of_segment)
        for text, of_segment in zip(texts, references, strict=True)
        if _is_long(text) and not any(_shares_words(text, reference) for reference in of_segment)
    ]
    found = _recognised([text for text, _ in doubtful], tgt_lang)
    wrong = [of_segment for (_, of_segment), right in zip(doubtful, found, strict=True) if right is False]
    bare = sum(not of_segment for of_segment in wrong)
    judged = [next(iter(of_segment)) for of_segment in wrong if of_segment]
    return bare + _recognised(judged, tgt_lang).count(True)


def is_surely_other(text: str, tgt_lang: str) -> bool:
    """Tell whether a text, by itself, is in another language than `tgt_lang`; `why_unchecked` must be empty."""
    if not _is_long(text):
        return False
    wanted = macro_language(tgt_lang)
    language = _detector().detect_language_of(text)
    if language is None or _code(language) == wanted:
        return False
    confidences = _detector().compute_language_confidence_values(text)
    return bool(sum(c.value for c in confidences if _code(c.language) == wanted) < MIN_CONFIDENCE)


def _is_long(text: str) -> bool:
    return sum(map(str.isalpha, text)) >= MIN_LETTERS


def _shares_words(text: str, reference: str) -> bool:
    words, others = WORD.findall(text.lower()), set(WORD.findall(reference.lower()))
    return sum(word in others for word in words) >= SHARED_WORDS * len(words)


def _recognised(texts: Sequence[str], tgt_lang: str) -> list[bool | None]:
    """Return of each text whether it is in the language, None where that cannot be told."""
    wanted = macro_language(tgt_lang)
    found = _detector().detect_languages_in_parallel_of(list(texts)) if texts else []
    return [None if language is None else _code(language) == wanted for language in found]


@lru_cache(maxsize=1)
def _detector() -> Any:
    # High accuracy takes 1 GB of memory and eight times as long; the rules above leave little for it to gain.
    from lingua import LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    from lingua import Language

    return frozenset(map(_code, Language.all()))


@lru_cache(maxsize=128)
def _code(language: Any) -> str:
    return macro_language(language.iso_code_639_1.name.lower())
