"""What distinguishes the model families: one declarative entry each, decided once when a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import langcodes

from mtcpo.errors import UserError, nearest
from mtcpo.languages import UNDETERMINED

ALMA_PROMPT = "Translate this from {src_name} to {tgt_name}:\n{src_name}: {source}\n{tgt_name}:"
"""The template of ALMA (arXiv 2309.11674), for decoder-only models without a chat template."""

CHAT_PROMPT = "Translate this from {src_name} to {tgt_name}. Give only the translation.\n{source}"
"""The user's message, for decoder-only models with a chat template."""

DECODER_LAYERS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "c_attn", "c_proj", "c_fc",
)  # fmt: skip
"""Attention and feed-forward layers as Llama and its like, GPT-NeoX and GPT-2 call them. Not the router of a mixture
of experts, nor its experts, which transformers 4 and 5 hold in different shapes: such adapters would not carry over."""


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of models wants its text.

    prompt: template over {source}, {src_name}, {tgt_name}, {src_code}, {tgt_code}; None: by chat template or ALMA's.
    language_code: how a BCP-47 tag becomes one of the tokenizer's language tokens; None: no language tokens.
    sets_tokenizer_language: the tokenizer has src_lang and tgt_lang; generation is forced to start with the target's.
    float16: False where activations are known to overflow in half precision.
    adapter_modules: the layers that low-rank adapters go to unless the user names others, in peft's words: by the end
        of their names, or "all-linear" for all but the output head.
    """

    name: str
    model_types: tuple[str, ...]
    layout: Literal["encoder-decoder", "decoder-only"]
    prompt: str | None = "{source}"
    language_code: Callable[[str], tuple[str, ...]] | None = None
    sets_tokenizer_language: bool = False
    float16: bool = True
    adapter_modules: str | tuple[str, ...] = "all-linear"


# NLLB names individual languages and scripts; where BCP-47 usage has the macrolanguage, this is the member meant.
NLLB_MEMBERS = {
    "ar": "arb", "az": "azj", "et": "est", "fa": "pes", "gn": "grn", "lv": "lvs", "mg": "plt", "mn": "khk",
    "ms": "zsm", "ne": "npi", "no": "nob", "om": "gaz", "or": "ory", "ps": "pbt", "qu": "quy", "sq": "als",
    "sw": "swh", "uz": "uzn", "yi": "ydd",
}  # fmt: skip


def nllb_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `deu_Latn`, `zh-Hant` -> `zho_Hant`."""
    language = langcodes.Language.get(tag)
    member = NLLB_MEMBERS.get(language.language or "") or language.to_alpha3()
    return (f"{member}_{language.maximize().script}",)


def m2m100_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `__de__`."""
    language = langcodes.Language.get(tag)
    return (f"__{language.language}__",)


def mbart_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `de_DE`: the tag's own region, or the one where the language is most at home, or fits mBART's list."""
    language = langcodes.Language.get(tag)
    base = language.language or ""
    regions = (language.territory, language.maximize().territory, "XX", "CN", "IN", "TH", "UA")
    return tuple(dict.fromkeys(f"{base}_{region}" for region in regions if region))


def marian_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `>>deu<<`, `>>de<<`, `>>deu_Latn<<`: checkpoints differ."""
    language = langcodes.Language.get(tag)
    alpha3, script = language.to_alpha3(), language.maximize().script
    return (f">>{alpha3}<<", f">>{language.language}<<", f">>{alpha3}_{script}<<", f">>{tag}<<")


def madlad_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `<2de>`; a script or region where the checkpoint tells them apart."""
    language = langcodes.Language.get(tag)
    return (f"<2{tag.replace('-', '_')}>", f"<2{language.language}>")


FAMILIES: tuple[Family, ...] = (
    Family("t5", ("t5",), "encoder-decoder", "translate {src_name} to {tgt_name}: {source}", float16=False),
    Family("mt5", ("mt5", "umt5"), "encoder-decoder", float16=False),
    Family("madlad", (), "encoder-decoder", "{tgt_code} {source}", madlad_codes, float16=False),
    Family("nllb", (), "encoder-decoder", language_code=nllb_codes, sets_tokenizer_language=True),
    Family("m2m100", ("m2m_100",), "encoder-decoder", language_code=m2m100_codes, sets_tokenizer_language=True),
    Family("mbart", ("mbart",), "encoder-decoder", language_code=mbart_codes, sets_tokenizer_language=True),
    Family("marian", ("marian",), "encoder-decoder"),
    Family("marian-multilingual", (), "encoder-decoder", "{tgt_code} {source}", marian_codes),
    Family(
        "decoder-only",
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gpt_neox", "gpt2", "mixtral"),
        "decoder-only",
        None,
        adapter_modules=DECODER_LAYERS,
    ),
)


def family_of(model_type: str, tokens: Collection[str]) -> Family:
    """Return the family of a model, by its `model_type` and, where types are shared, by its tokenizer's tokens.

    Raises:
        UserError: no entry declares this type.
    """
    by_name = {family.name: family for family in FAMILIES}
    if model_type == "t5" and "<2de>" in tokens:
        return by_name["madlad"]
    if model_type == "m2m_100" and "eng_Latn" in tokens:
        return by_name["nllb"]
    if model_type == "marian" and any(token.startswith(">>") and token.endswith("<<") for token in tokens):
        return by_name["marian-multilingual"]
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = sorted({model_type for family in FAMILIES for model_type in family.model_types})
    raise UserError(
        f"no family is declared for model type {model_type!r}{nearest(model_type, known)}; known types: "
        f"{', '.join(known)}. A new one is an entry in mtcpo/families.py"
    )


def language_token(family: Family, tag: str, tokens: Collection[str]) -> str:
    """Return the token that stands for a BCP-47 language in this model's vocabulary, "" where the family has none.

    Raises:
        UserError: the tokenizer lacks the language; the message names its nearest token.
    """
    if family.language_code is None:
        return ""
    if tag == UNDETERMINED:
        raise UserError(f"the {family.name} family needs to know its languages; give --src-lang and --tgt-lang")
    codes = family.language_code(tag)
    for code in codes:
        if code in tokens:
            return code
    # Only tokens of the same make: a vocabulary has 250,000, and comparing with all of them takes minutes.
    alike = [token for token in tokens if _make(token) == _make(codes[0])]
    raise UserError(
        f"the tokenizer has no token for language {tag!r} (tried {', '.join(codes)}){nearest(codes[0], alike)}"
    )


def some_language(family: Family, tokens: Collection[str]) -> str:
    """Return the first language, by its token, that a tokenizer of a family with language tokens knows.

    Raises:
        UserError: it knows none.
    """
    assert family.language_code is not None
    make = _make(family.language_code("de")[0])
    for token in sorted(token for token in tokens if _make(token) == make):
        tag = token.strip("<2>_")
        try:
            if token in family.language_code(tag):
                return tag
        except (LookupError, ValueError):
            continue  # a word that only looks like a code
    raise UserError(f"the tokenizer of this {family.name} model has no language token such as {make}")


def _make(token: str) -> str:
    """Return the shape of a language token: `deu_Latn` -> `a_a`, `>>deu<<` -> `>>a<<`."""
    return re.sub(r"[^\W_]+", "a", token)
