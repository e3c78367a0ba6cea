"""What distinguishes the model families: one declarative entry each, decided once when a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import langcodes
from langcodes.tag_parser import LanguageTagError

from mtcpo.core.errors import UserError, nearest
from mtcpo.data.languages import UNDETERMINED

DECODER_LAYERS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "c_attn", "c_proj", "c_fc",
)  # fmt: skip
"""Attention and feed-forward layers as Llama and its like, GPT-NeoX and GPT-2 call them. Not the router of a mixture
of experts, nor its experts, which transformers 4 and 5 hold in different shapes: such adapters would not carry over."""


FARTHEST = 80
"""On CLDR's scale of how well readers of one language do with another, Low and High German are this far apart."""

LayoutName = Literal["encoder-decoder", "decoder-only"]


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of models wants its text. The first entry that fits a model is its family.

    marker: where several families share a model type, a regular expression that one of the tokenizer's tokens matches.
    prompt: template over {source}, {src_name}, {tgt_name}, {src_code}, {tgt_code}; None: by chat template or ALMA's.
    language_code: how a BCP-47 tag becomes one of the tokenizer's language tokens, the most fitting first; None: no
        language tokens.
    target_code: what the target's language token is to `generate`: the first token that is forced on it, or the one
        it starts from. "": the tokenizer has no src_lang and tgt_lang; language tokens, if any, are part of the prompt.
    float16: False where activations are known to overflow in half precision.
    buffers: tensors that are no parameters and that the library does not miss, but the model does.
    unscaled_since: the major version of transformers that no longer divides the decoder's output by sqrt(d_model)
        where both tables are one; None: all versions do the same.
    adapter_modules: the layers that low-rank adapters go to unless the user names others, in peft's words: by the end
        of their names, or "all-linear" for all but the output head.
    """

    name: str
    model_types: tuple[str, ...]
    layout: LayoutName
    marker: str | None = None
    prompt: str | None = "{source}"
    language_code: Callable[[str], tuple[str, ...]] | None = None
    target_code: Literal["", "forced_bos", "decoder_start"] = ""
    float16: bool = True
    buffers: tuple[str, ...] = ()
    unscaled_since: int | None = None
    adapter_modules: str | tuple[str, ...] = "all-linear"


# NLLB names individual languages and scripts; where BCP-47 usage has the macrolanguage, this is the member meant.
NLLB_MEMBERS = {
    "ar": "arb", "az": "azj", "et": "est", "fa": "pes", "fa-AF": "prs", "fil": "tgl", "gn": "grn", "lv": "lvs",
    "mg": "plt", "mn": "khk", "ms": "zsm", "ne": "npi", "no": "nob", "om": "gaz", "or": "ory", "ps": "pbt",
    "qu": "quy", "sq": "als", "sw": "swh", "uz": "uzn", "yi": "ydd",
}  # fmt: skip

# What tokenizers made before, or beside, today's BCP-47 call a language.
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
    """`de` -> `de_DE`: the tag's own region, or the one where the language is most at home, or fits mBART's list."""
    language = langcodes.Language.get(tag)
    regions = (language.territory, language.maximize().territory, "XX", "CN", "IN", "TH", "UA")
    return tuple(dict.fromkeys(f"{name}_{region}" for name in _names(language) for region in regions if region))


def marian_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `>>deu<<`, `>>de<<`, `>>deu_Latn<<`, as checkpoints differ; the tag's own script or region first."""
    language = langcodes.Language.get(tag)
    names = (language.to_alpha3(), *_names(language))
    likely = language.maximize()
    own = [part for part in (language.script, language.territory) if part]
    usual = [] if language.script else [likely.script]
    codes = [*(f"{name}_{part}" for part in own for name in names), *names, *(f"{n}_{s}" for n in names for s in usual)]
    return tuple(dict.fromkeys(f">>{code}<<" for code in codes))


def madlad_codes(tag: str) -> tuple[str, ...]:
    """`de` -> `<2de>`; a script or region where the checkpoint tells them apart."""
    names = (tag.replace("-", "_"), *_names(langcodes.Language.get(tag)))
    return tuple(dict.fromkeys(f"<2{name}>" for name in names))


FAMILIES: tuple[Family, ...] = (
    Family("madlad", ("t5",), "encoder-decoder", "<2de>", "{tgt_code} {source}", madlad_codes, float16=False),
    Family("byt5", ("t5", "mt5"), "encoder-decoder", "\x00", float16=False),
    Family("t5", ("t5",), "encoder-decoder", None, "translate {src_name} to {tgt_name}: {source}", float16=False),
    Family("mt5", ("mt5",), "encoder-decoder", float16=False, unscaled_since=5),
    Family("umt5", ("umt5",), "encoder-decoder", float16=False),
    Family("nllb", ("m2m_100",), "encoder-decoder", "eng_Latn", "{source}", nllb_codes, "forced_bos"),
    Family("m2m100", ("m2m_100",), "encoder-decoder", None, "{source}", m2m100_codes, "forced_bos"),
    Family("mbart-50", ("mbart",), "encoder-decoder", "sl_SI", "{source}", mbart_codes, "forced_bos"),
    Family("mbart-cc25", ("mbart",), "encoder-decoder", None, "{source}", mbart_codes, "decoder_start"),
    Family("marian-multilingual", ("marian",), "encoder-decoder", ">>.+<<", "{tgt_code} {source}", marian_codes,
           buffers=("final_logits_bias",)),
    Family("marian", ("marian",), "encoder-decoder", buffers=("final_logits_bias",)),
    Family("llama", ("llama",), "decoder-only", prompt=None, adapter_modules=DECODER_LAYERS),
    Family("qwen", ("qwen2", "qwen3"), "decoder-only", prompt=None, adapter_modules=DECODER_LAYERS),
    Family("gemma", ("gemma", "gemma2", "gemma3_text"), "decoder-only", prompt=None, adapter_modules=DECODER_LAYERS),
    Family("mistral", ("mistral", "mixtral"), "decoder-only", prompt=None, adapter_modules=DECODER_LAYERS),
    Family("gpt-neox", ("gpt_neox",), "decoder-only", prompt=None, adapter_modules=DECODER_LAYERS),
    Family("gpt2", ("gpt2",), "decoder-only", prompt=None, adapter_modules=DECODER_LAYERS),
    Family("cohere", ("cohere",), "decoder-only", prompt=None, adapter_modules=DECODER_LAYERS),
    Family("granite", ("granite",), "decoder-only", prompt=None, adapter_modules=DECODER_LAYERS),
)  # fmt: skip


def family_of(model_type: str, tokens: Collection[str], layout: LayoutName) -> Family:
    """Return the family of a model, by its `model_type` and, where types are shared, by its tokenizer's tokens.

    Raises:
        UserError: no entry declares this type; the message has the entry to add, which `layout` is for.
    """
    for family in FAMILIES:
        if model_type in family.model_types and (family.marker is None or _has(tokens, family.marker)):
            return family
    known = sorted({model_type for family in FAMILIES for model_type in family.model_types})
    prompt = ", prompt=None" if layout == "decoder-only" else ""
    raise UserError(
        f"no family is declared for model type {model_type!r}{nearest(model_type, known)}; known types: "
        f"{', '.join(known)}. A new one is an entry of FAMILIES in mtcpo/models/families.py, for a model "
        f'without language tokens Family("{model_type}", ("{model_type}",), "{layout}"{prompt})'
    )


def _has(tokens: Collection[str], marker: str) -> bool:
    pattern = re.compile(marker)
    return marker in tokens or any(pattern.fullmatch(token) for token in tokens)


def language_token(family: Family, tag: str, tokens: Collection[str]) -> str:
    """Return the token that stands for a BCP-47 language in this model's vocabulary, "" where the family has none.

    Raises:
        UserError: the tokenizer lacks the language; the message names the nearest that it has.
    """
    if family.language_code is None:
        return ""
    if tag == UNDETERMINED:
        raise UserError(f"the {family.name} family needs to know its languages; give --src-lang and --tgt-lang")
    codes = family.language_code(tag)
    for code in codes:
        if code in tokens:
            return code
    # Only tokens of the same make: a vocabulary has 250,000.
    makes = {_make(code) for code in codes}
    alike = [code for code in {_bare(token) for token in tokens if _make(token) in makes} if _is_tag(code)]
    found, distance = langcodes.closest_match(tag, sorted(alike), max_distance=FARTHEST)
    hint = f"; the nearest that it has is {found!r}" if distance <= FARTHEST else ""
    raise UserError(f"the tokenizer has no token for language {tag!r} (tried {', '.join(codes)}){hint}")


def any_language(family: Family, tokens: Collection[str]) -> str:
    """Return the first language, by its token, that a tokenizer of a family with language tokens knows.

    Raises:
        UserError: it knows none.
    """
    assert family.language_code is not None
    makes = {_make(code): code for code in family.language_code("de")}
    for token in sorted(token for token in tokens if _make(token) in makes):
        tag = _bare(token)
        try:
            if token in family.language_code(tag):
                return tag
        except (LookupError, ValueError):
            continue  # a word that only looks like a code
    raise UserError(f"the tokenizer of this {family.name} model has no language token such as {min(makes.values())}")


def _is_tag(code: str) -> bool:
    try:
        return langcodes.tag_is_valid(code)
    except LanguageTagError:
        return False  # a word that only looks like a code


def _bare(token: str) -> str:
    """Return the code in a language token: `<2de>` and `__de__` -> `de`."""
    return re.sub(r"^(<2|>>|__)|(>|<<|__)$", "", token)


def _make(token: str) -> str:
    """Return the shape of a language token: `deu_Latn` -> `a_a`, `>>deu<<` -> `>>a<<`."""
    return re.sub(r"[^\W_]+", "a", token)
