"""Language tokens of each family: BCP-47 tag -> tokens that its tokenizers may use, best first."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import langcodes

# NLLB names individual languages and scripts; if BCP-47 usage has the macrolanguage, this is the member meant.
NLLB_MEMBERS = {
    "ar": "arb", "az": "azj", "et": "est", "fa": "pes", "fa-AF": "prs", "fil": "tgl", "gn": "grn", "lv": "lvs",
    "mg": "plt", "mn": "khk", "ms": "zsm", "ne": "npi", "no": "nob", "om": "gaz", "or": "ory", "ps": "pbt",
    "qu": "quy", "sq": "als", "sw": "swh", "uz": "uzn", "yi": "ydd",
}  # fmt: skip

# Language codes in tokenizers that do not follow current BCP-47.
OTHER_NAMES = {"fil": ("tl",), "he": ("iw",), "jv": ("jw",), "nb": ("no",), "nso": ("ns",), "zh": ("cmn",)}


def _names(language: langcodes.Language) -> tuple[str, ...]:
    """Return the spellings of a language without script and region: `de`; `fil`, `tl`."""
    base = language.language or ""
    return (base, *OTHER_NAMES.get(base, ()))


def nllb_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `deu_Latn`, `zh-Hant` -> `zho_Hant`."""
    language = langcodes.Language.get(tag)
    member = NLLB_MEMBERS.get(tag) or NLLB_MEMBERS.get(language.language or "") or language.to_alpha3()
    return (f"{member}_{language.maximize().script}",)


def m2m100_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `__de__`; scripts and regions have no tokens of their own."""
    return tuple(f"__{name}__" for name in _names(langcodes.Language.get(tag)))


def mbart_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `de_DE`: with the tag's region, the language's most likely region, or the region in mBART's list."""
    language = langcodes.Language.get(tag)
    regions = (language.territory, language.maximize().territory, "XX", "CN", "IN", "TH", "UA")
    return tuple(dict.fromkeys(f"{name}_{region}" for name in _names(language) for region in regions if region))


def marian_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `>>deu<<`, `>>de<<`, `>>deu_Latn<<`, as checkpoints differ; the tag's own script or region first."""
    language = langcodes.Language.get(tag)
    names = (language.to_alpha3(), *_names(language))
    likely = language.maximize()
    codes = []
    for part in (language.script, language.territory):
        if part:
            codes += [f"{name}_{part}" for name in names]
    codes += names
    # For checkpoints that write every language with its script, such as deu_Latn.
    if not language.script:
        codes += [f"{name}_{likely.script}" for name in names]
    return tuple(dict.fromkeys(f">>{code}<<" for code in codes))


def madlad_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `<2de>`; with script or region if the checkpoint distinguishes them."""
    names = (tag.replace("-", "_"), *_names(langcodes.Language.get(tag)))
    return tuple(dict.fromkeys(f"<2{name}>" for name in names))


def language_code_source(function: Callable[[str], tuple[str, ...]] | None) -> str:
    """Return the source of the module that defines a `language_code`: if it changes, tokens may change."""
    if function is None:
        return ""
    try:
        return inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):
        return repr(function)  # defined interactively: the address makes it unique, so that no cached tokens are reused
