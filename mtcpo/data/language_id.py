"""Off-target translations (in another language than the target language), found by the optional package lingua.

Language identification errs on short and unusual lines (a name, a title): texts with few letters are not checked, and
those that may well be in the target language are not counted. A translation with references counts as off-target only
if a reference is recognized as the target language and the translation does not share its words with a reference.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from mtcpo.data.languages import macro_language

MIN_LETTERS = 12
"""Texts with fewer letters are not checked."""

MIN_CONFIDENCE = 0.05
"""A text whose probability of being in the target language is below this is off-target."""

SHARED_WORDS = 1 / 3
"""A translation with at least this share of its words in a reference is taken to be in the reference's language."""

WORD = re.compile(r"\w+")


def why_unchecked(tgt_lang: str | None = None) -> str:
    """Return why texts in this language (None: in any language) cannot be checked, or "" if they can."""
    if importlib.util.find_spec("lingua") is None:
        return "lingua is not installed: pip install 'mtcpo[langid]'"
    if tgt_lang is None or macro_language(tgt_lang) in _lingua_languages():
        return ""
    return f"lingua does not know {tgt_lang!r}"


def are_wrong(texts: Sequence[str], tgt_lang: str) -> list[bool]:
    """Return for each text whether it is clearly in another language than `tgt_lang`.

    Precondition: `why_unchecked(tgt_lang)` is "".
    """
    target = macro_language(tgt_lang)
    wrong = [False] * len(texts)
    long_enough = [index for index, text in enumerate(texts) if _is_long(text)]
    detected = _detect([texts[index] for index in long_enough])
    for index, language in zip(long_enough, detected, strict=True):
        # Related languages are often confused: the target language must be unlikely, not merely second.
        if language not in (target, None):
            wrong[index] = _confidence(texts[index], target) < MIN_CONFIDENCE
    return wrong


def count_wrong(texts: Sequence[str], references: Sequence[Sequence[str]], tgt_lang: str) -> int:
    """Return how many translations are in another language than `tgt_lang`.

    Precondition: `why_unchecked(tgt_lang)` is "". references: for each text; one without any is checked alone.
    """
    # lingua is slow, so texts that share their words with a reference are left out first.
    doubtful = []
    for text, own_references in zip(texts, references, strict=True):
        if not _shares_words(text, own_references):
            doubtful.append((text, own_references))
    wrong = are_wrong([text for text, _ in doubtful], tgt_lang)

    without_reference = 0
    first_references = []
    for (_, own_references), is_wrong in zip(doubtful, wrong, strict=True):
        if is_wrong and own_references:
            first_references.append(own_references[0])
        elif is_wrong:
            without_reference += 1
    # If lingua takes the reference for another language (a list of names, a quotation), it is not reliable there.
    return without_reference + _detect(first_references).count(macro_language(tgt_lang))


def _is_long(text: str) -> bool:
    return sum(map(str.isalpha, text)) >= MIN_LETTERS


def _shares_words(text: str, references: Sequence[str]) -> bool:
    """Whether at least SHARED_WORDS of a text's words are in one of the references."""
    words = WORD.findall(text.lower())
    for reference in references:
        reference_words = set(WORD.findall(reference.lower()))
        shared = sum(map(reference_words.__contains__, words))
        if shared >= SHARED_WORDS * len(words):
            return True
    return False


def _detect(texts: Sequence[str]) -> list[str | None]:
    """Return the language of each text, None if it cannot be identified."""
    if not texts:
        return []
    detected = _detector().detect_languages_in_parallel_of(list(texts))
    return [None if language is None else _code(language) for language in detected]


def _confidence(text: str, code: str) -> float:
    """Return the probability, 0 to 1, that a text is in a language; Norwegian is two of lingua's languages."""
    total = 0.0
    for language in _lingua_languages()[code]:
        total += float(_detector().compute_language_confidence(text, language))
    return total


@lru_cache(maxsize=1)
def _detector() -> Any:
    # High accuracy takes 1 GB of memory and eight times as long; the rules above leave little for it to gain.
    from lingua import LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()


@lru_cache(maxsize=1)
def _lingua_languages() -> dict[str, list[Any]]:
    """Return lingua's languages by the codes used here."""
    from lingua import Language

    languages: dict[str, list[Any]] = {}
    for language in Language.all():
        languages.setdefault(_code(language), []).append(language)
    return languages


@lru_cache(maxsize=128)
def _code(language: Any) -> str:
    return macro_language(language.iso_code_639_1.name.lower())
