"""Checks of texts that need no model: length ratio, repetition, edit similarity, script."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from mtcpo.data.languages import script_of

# Up to 60 characters repeated four or more times in a row, over at least 12 characters: "no, no, no!" may be right.
# Without the limit of 60, the search would be slow on long texts.
_LOOP = re.compile(r"(.)\1{11,}|(..)\2{5,}|(.{3,60}?)\3{3,}", re.DOTALL)


MIN_SCRIPT_SHARE = 0.5
"""Names and loan words in another script are fine, but most letters must be in a script of the target language."""


def is_length_within(text: str, source: str, ratio: float) -> bool:
    """Whether a text is at most `ratio` times longer or shorter than its source, in characters."""
    return 1 / ratio <= len(text) / len(source.strip()) <= ratio


def edit_similarity(first: str, second: str) -> float:
    """Return 1 - Levenshtein distance / length of the longer text, in characters: 0 to 1, 1 means equal."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_similarity(first, second))


def has_loop(text: str) -> bool:
    """Whether a text repeats something four or more times in a row, over 12 or more characters.

    Repeated punctuation, such as dots and dashes, does not count.
    """
    # White space is normalized, so that "no no\tno no" counts; the space at the end makes the last word equal too.
    normalized = " ".join(text.split()) + " "
    repetitions = (match.group() for match in _LOOP.finditer(normalized))
    return any(map(_has_letter_or_digit, repetitions))


def _has_letter_or_digit(text: str) -> bool:
    return any(map(str.isalnum, text))


def adds_loop(text: str, source: str) -> bool:
    """Whether a translation has a repetition and its source has none: "ha ha ha ha" may be translated as such."""
    # Short-circuit: most translations have no repetition, so their sources need no check.
    return has_loop(text) and not has_loop(source)


# The ISO 15924 code of a writing system -> the Unicode scripts whose letters it uses.
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

    # Letters that several scripts share (the kana sign "ー", modifiers) count for none.
    return regex.compile(r"[\p{L}--[\p{Script=Common}\p{Script=Inherited}]]", flags=regex.V1)


def script_share(text: str, tgt_lang: str) -> float:
    """Return the share of a text's letters that are in the target language's script, 0 to 1; 1 without any letter."""
    letters = len(_letters().findall(text))
    return len(_letters_in(tgt_lang).findall(text)) / letters if letters else 1.0


def is_in_other_script(text: str, tgt_lang: str) -> bool:
    """Whether most letters of a text are in a script that the target language is not written in."""
    return script_share(text, tgt_lang) < MIN_SCRIPT_SHARE
