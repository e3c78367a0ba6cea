"""Language codes: BCP-47 tags in their standard form, and the English names of languages."""

from __future__ import annotations

from functools import lru_cache

import langcodes
from langcodes.tag_parser import LanguageTagError

from mtcpo.core.errors import UserError, nearest

UNDETERMINED = "und"
"""The code of an unknown language, for preference sets without language codes."""

# The codes of WMT, FLORES and Multi30k: candidates for what a mistyped code meant.
_COMMON = """
af am ar as az be bg bn bs ca ceb cs cy da de el en es et eu fa fi fr ga gd gl gu ha he hi hr hsb hu hy id ig is it iu
ja jv ka kk km kn ko ky lb lo lt lv mg mi mk ml mn mr ms mt my nb ne nl nn no or pa pl ps pt ro ru sah sd si sk sl sn
so sq sr sv sw ta te tg th tl tr uk ur uz vi wo xh yi yo yue zh zu
"""

# langcodes treats these as separate from their macrolanguage Chinese. They too are written in Han characters without
# spaces, which is what decides about a metric's tokenizer.
_WRITTEN_AS_CHINESE = {"yue", "lzh", "wuu"}


@lru_cache(maxsize=1024)
def check_language(tag: str) -> str:
    """Return the BCP-47 form of `tag`: `deu_Latn` -> `de`, `pt-br` -> `pt-BR`, `zho_Hans` -> `zh-Hans`.

    Raises:
        UserError: not a valid language tag; the message suggests the nearest one.
    """
    try:
        if langcodes.tag_is_valid(tag):
            return langcodes.standardize_tag(tag)
    except LanguageTagError:
        pass  # reported below, like every other invalid tag
    # "german" is more likely a name than a mistyped code.
    hint = _suggest_by_name(tag) or nearest(tag.lower(), _COMMON.split())
    raise UserError(f"unknown language {tag!r}{hint}; give a BCP-47 code such as de, zh or pt-BR")


def _suggest_by_name(name: str) -> str:
    """Return the hint for a language's name given instead of its code, or "" if it is not such a name."""
    try:
        return f" (did you mean {langcodes.find(name).to_tag()!r}?)"
    except LookupError:
        return ""


def same_language(first: str, second: str) -> bool:
    """Whether two codes mean the same language, script and region, as `deu_Latn` and `de` do."""
    return check_language(first) == check_language(second)


@lru_cache(maxsize=1024)
def english_name(tag: str) -> str:
    """Return a language's English name, as prompts write it: `de` -> "German", `pt-BR` -> "Portuguese (Brazil)"."""
    return langcodes.Language.get(check_language(tag)).display_name("en")


@lru_cache(maxsize=1024)
def macro_language(tag: str) -> str:
    """Return the bare code, for tools that know few languages: `zh-Hans`, `cmn` and `yue` -> `zh`."""
    language = str(langcodes.Language.get(langcodes.standardize_tag(tag, macro=True)).language)
    return "zh" if language in _WRITTEN_AS_CHINESE else language


@lru_cache(maxsize=1024)
def script_of(tag: str) -> str:
    """Return the ISO 15924 code of a language's most likely script: `de` -> "Latn", `zh` -> "Hans"."""
    return str(langcodes.Language.get(check_language(tag)).maximize().script)
