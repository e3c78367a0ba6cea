"""Which texts are in another language than they should be, by the optional package lingua.

Short and odd lines (a name, a title) deceive every such tool. So texts with few letters are not judged, nor those that
may well be in the language that they should be in. An output, which has references, counts as wrong only where one of
them is recognised as the target language, and one that shares its words with a reference is not asked about.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from mtcpo.data.languages import macro_language

MIN_LETTERS = 12
"""Texts with fewer letters are not judged."""

MIN_CONFIDENCE = 0.05
"""Below this probability of the language that it should be in, a text is in another."""

SHARED_WORDS = 1 / 3
"""Of an output's words, this share in one of the references: it is in their language."""

WORD = re.compile(r"\w+")


def why_unchecked(tgt_lang: str | None = None) -> str:
    """Return why texts in this language (None: in any) cannot be checked, or "" where they can."""
    if importlib.util.find_spec("lingua") is None:
        return "lingua is not installed: pip install 'mtcpo[langid]'"
    return "" if tgt_lang is None or macro_language(tgt_lang) in _known() else f"lingua does not know {tgt_lang!r}"


def are_wrong(texts: Sequence[str], tgt_lang: str) -> list[bool]:
    """Return of each text whether it is surely in another language than `tgt_lang`; `why_unchecked` must be empty."""
    wanted = macro_language(tgt_lang)
    judged = [text for text in texts if _is_long(text)]
    found = iter(_languages(judged))
    return [
        _is_long(text) and next(found) not in (wanted, None) and _confidence(text, wanted) < MIN_CONFIDENCE
        for text in texts
    ]


def count_wrong(texts: Sequence[str], references: Sequence[Sequence[str]], tgt_lang: str) -> int:
    """Return how many outputs are in another language than `tgt_lang`; `why_unchecked` must be empty.

    references: of each segment; one without any: its text is judged by itself.
    """
    doubtful = [
        (text, of_segment)
        for text, of_segment in zip(texts, references, strict=True)
        if not any(_shares_words(text, reference) for reference in of_segment)
    ]
    found = are_wrong([text for text, _ in doubtful], tgt_lang)
    wrong = [of_segment for (_, of_segment), is_wrong in zip(doubtful, found, strict=True) if is_wrong]
    bare = sum(not of_segment for of_segment in wrong)
    judged = [next(iter(of_segment)) for of_segment in wrong if of_segment]
    return bare + _languages(judged).count(macro_language(tgt_lang))


def _is_long(text: str) -> bool:
    return sum(map(str.isalpha, text)) >= MIN_LETTERS


def _shares_words(text: str, reference: str) -> bool:
    words, others = WORD.findall(text.lower()), set(WORD.findall(reference.lower()))
    return sum(word in others for word in words) >= SHARED_WORDS * len(words)


def _languages(texts: Sequence[str]) -> list[str | None]:
    """Return the language of each text, None where that cannot be told."""
    found = _detector().detect_languages_in_parallel_of(list(texts)) if texts else []
    return [None if language is None else _code(language) for language in found]


def _confidence(text: str, code: str) -> float:
    """Return the probability that a text is in a language; several of lingua's may be one (Norwegian)."""
    return sum(float(_detector().compute_language_confidence(text, language)) for language in _known()[code])


@lru_cache(maxsize=1)
def _detector() -> Any:
    # High accuracy takes 1 GB of memory and eight times as long; the rules above leave little for it to gain.
    from lingua import LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()


@lru_cache(maxsize=1)
def _known() -> dict[str, list[Any]]:
    """Return lingua's languages by our codes."""
    from lingua import Language

    found: dict[str, list[Any]] = {}
    for language in Language.all():
        found.setdefault(_code(language), []).append(language)
    return found


@lru_cache(maxsize=128)
def _code(language: Any) -> str:
    return macro_language(language.iso_code_639_1.name.lower())
