"""Checks of a text by itself: length ratio, repetition, edit similarity, script."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from mtcpo.data.languages import script_of

# A stretch of up to 60 characters four or more times in a row, over 12 characters at least: "no, no, no!" may be right.
# Bounded, so that no text makes the search slow.
_LOOP = re.compile(r"(.)\1{11,}|(..)\2{5,}|(.{3,60}?)\3{3,}", re.DOTALL)


def is_length_within(text: str, source: str, ratio: float) -> bool:
    """Whether a text is at most `ratio` times longer or shorter than its source, in characters."""
    return 1 / ratio <= len(text) / len(source.strip()) <= ratio


def edit_similarity(first: str, second: str) -> float:
    """Return 1 - Levenshtein distance / length of the longer text, in characters; 1 means equal."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_similarity(first, second))


def has_loop(text: str) -> bool:
    """Whether a text says one thing four times or more without a break, over 12 characters or more.

    Dots and dashes alone say nothing.
    """
    # White space is evened out, so that "no no\tno no" counts; the space at the end lets the last word count too.
    even = " ".join(text.split()) + " "
    return any(any(map(str.isalnum, match.group())) for match in _LOOP.finditer(even))


# What langcodes calls a script -> the scripts of Unicode whose letters it has.
_SCRIPTS = {
    "Jpan": ("Han", "Hiragana", "Katakana"),
    "Kore": ("Hangul", "Han"),
    "Hans": ("Han", "Bopomofo"),
    "Hant": ("Han", "Bopomofo"),
}


@lru_cache(maxsize=256)
def _letters_in(tgt_lang: str) -> Any:
    import regex

    script = script_of(tgt_lang)
    names = "".join(rf"\p{{Script={name}}}" for name in _SCRIPTS.get(script, (script,)))
    return regex.compile(rf"[[{names}]&&\p{{L}}]", flags=regex.V1)


@lru_cache(maxsize=1)
def _letters() -> Any:
    import regex

    # Letters that many scripts share ("ー" of kana, modifiers) belong to none and count for none.
    return regex.compile(r"[\p{L}--[\p{Script=Common}\p{Script=Inherited}]]", flags=regex.V1)


def script_share(text: str, tgt_lang: str) -> float:
    """Return the share of a text's letters in a script of the target language; 1 where it has no letter."""
    letters = len(_letters().findall(text))
    return len(_letters_in(tgt_lang).findall(text)) / letters if letters else 1.0
