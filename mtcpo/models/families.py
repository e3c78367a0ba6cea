"""The catalogue of model families: one entry each, chosen once when a model is loaded.

FAMILIES below is the whole list. Users can declare other families without changing mtcpo: see `Family`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

from mtcpo.core.errors import UserError, nearest
from mtcpo.core.user_code import load_user_code
from mtcpo.models.language_codes import m2m100_codes, madlad_codes, marian_codes, mbart_codes, nllb_codes
from mtcpo.models.prompts import check_prompt

DECODER_LAYERS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "c_attn", "c_proj", "c_fc",
)  # fmt: skip
"""Names of attention and feed-forward layers in Llama-like models, GPT-NeoX and GPT-2. Not the router and experts of a
mixture of experts: transformers 4 and 5 store them in different shapes, so adapters would not be portable."""

LayoutName = Literal["encoder-decoder", "decoder-only"]


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of models is prompted, tokenized and decoded.

    For a model type unknown to mtcpo, declare a family: pass it to `PreferenceTrainer(family=...)`, or define it in a
    file `own.py` as FAMILY and pass `--family python:own:FAMILY --allow-code`. For most models,

        FAMILY = Family("pegasus", ("pegasus",), "encoder-decoder")

    is enough; the canary compares its log-probabilities with the model's own logits at every load.

    name: for messages, and where results are kept.
    model_types: values of `model_type` in config.json, as registered in transformers.
    layout: whether the source goes to an encoder, or before the target in one row.
    title: name used in papers.
    paper: its publication.
    help: one line on what is special about it.
    alias: short name of `checkpoint` for --model.
    checkpoint: a well-known model of the family, on the hub.
    marker: if several families share a model type, a regular expression that one of the tokenizer's tokens matches.
    prompt: template over {source}, {src_name}, {tgt_name}, {src_code}, {tgt_code}. None, for decoder-only models: the
        tokenizer's chat template, or ALMA's prompt if there is none.
    language_code: BCP-47 tag -> possible language tokens of the tokenizer, best first; None: it has none.
    target_code: how `generate` uses the target's language token: forced as the first token, or as the token that
        decoding starts from. "": the tokenizer has no src_lang and tgt_lang; language tokens, if any, are in the
        prompt.
    float16: False where activations are known to overflow in half precision.
    buffers: tensors that are not parameters, whose absence from a checkpoint transformers does not report.
    unscaled_since: the major version of transformers that no longer divides the decoder's output by sqrt(d_model)
        if embeddings and lm_head are tied; None: all versions do the same.
    adapter_modules: the layers that get low-rank adapters unless the user names others: suffixes of their names, or
        "all-linear" for all but the lm_head.

    Raises:
        UserError: inconsistent fields.
    """

    name: str
    model_types: tuple[str, ...]
    layout: LayoutName
    _: KW_ONLY
    title: str = ""
    paper: str = ""
    help: str = ""
    alias: str = ""
    checkpoint: str = ""
    marker: str | None = None
    prompt: str | None = "{source}"
    language_code: Callable[[str], tuple[str, ...]] | None = None
    target_code: Literal["", "forced_bos", "decoder_start"] = ""
    float16: bool = True
    buffers: tuple[str, ...] = ()
    unscaled_since: int | None = None
    adapter_modules: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        problem = self._find_problem()
        if problem:
            raise UserError(f"family {self.name!r}: {problem}")

    def _find_problem(self) -> str:
        if not isinstance(self.model_types, tuple) or not self.model_types:
            return f"model_types must be a tuple of model types, not {self.model_types!r}"
        if self.layout not in get_args(LayoutName):
            return f"layout must be one of {', '.join(get_args(LayoutName))}, not {self.layout!r}"
        if self.target_code not in ("", "forced_bos", "decoder_start"):
            return f"target_code must be '', 'forced_bos' or 'decoder_start', not {self.target_code!r}"
        if self.target_code and self.language_code is None:
            return "target_code needs language_code, a function from a BCP-47 tag to the tokens of that language"
        if self.prompt is not None:
            check_prompt(self.prompt)
        return ""


# The first matching entry is a model's family: entries with a marker come before those that share their model type.
FAMILIES: tuple[Family, ...] = (
    Family(
        "madlad", ("t5",), "encoder-decoder", title="MADLAD-400", paper="arXiv 2309.04662",
        help="450 languages; the target language's token <2xx> precedes the source",
        alias="madlad", checkpoint="google/madlad400-3b-mt",
        marker="<2de>", prompt="{tgt_code} {source}", language_code=madlad_codes, float16=False,
    ),
    Family(
        "byt5", ("t5", "mt5"), "encoder-decoder", title="ByT5", paper="arXiv 2105.13626",
        help="bytes instead of subword tokens", checkpoint="google/byt5-small",
        marker="\x00", float16=False,
    ),
    Family(
        "t5", ("t5",), "encoder-decoder", title="T5", paper="arXiv 1910.10683",
        help="English, German, French, Romanian; the task is part of the prompt", checkpoint="google-t5/t5-small",
        prompt="translate {src_name} to {tgt_name}: {source}", float16=False,
    ),
    Family(
        "mt5", ("mt5",), "encoder-decoder", title="mT5", paper="arXiv 2010.11934",
        help="101 languages; not trained to translate, so fine-tune it first",
        alias="mt5", checkpoint="google/mt5-small",
        float16=False, unscaled_since=5,
    ),
    Family(
        "umt5", ("umt5",), "encoder-decoder", title="UMT5", paper="arXiv 2304.09151",
        help="107 languages; not trained to translate, so fine-tune it first", checkpoint="google/umt5-small",
        float16=False,
    ),
    Family(
        "nllb", ("m2m_100",), "encoder-decoder", title="NLLB-200", paper="arXiv 2207.04672",
        help="200 languages, as language and script: deu_Latn",
        alias="nllb", checkpoint="facebook/nllb-200-distilled-600M",
        marker="eng_Latn", language_code=nllb_codes, target_code="forced_bos",
    ),
    Family(
        "m2m100", ("m2m_100",), "encoder-decoder", title="M2M100", paper="arXiv 2010.11125",
        help="100 languages, as tokens such as __de__", alias="m2m100", checkpoint="facebook/m2m100_418M",
        language_code=m2m100_codes, target_code="forced_bos",
    ),
    Family(
        "mbart-50", ("mbart",), "encoder-decoder", title="mBART-50", paper="arXiv 2008.00401",
        help="50 languages, as language and region: de_DE",
        alias="mbart", checkpoint="facebook/mbart-large-50-many-to-many-mmt",
        marker="sl_SI", language_code=mbart_codes, target_code="forced_bos",
    ),
    Family(
        "mbart-cc25", ("mbart",), "encoder-decoder", title="mBART-cc25", paper="arXiv 2001.08210",
        help="25 languages; decoding starts from the target language's code", checkpoint="facebook/mbart-large-cc25",
        language_code=mbart_codes, target_code="decoder_start",
    ),
    Family(
        "marian-multilingual", ("marian",), "encoder-decoder", title="OPUS-MT, several target languages",
        paper="arXiv 2212.01936", help="the target language's token >>deu<< precedes the source",
        checkpoint="Helsinki-NLP/opus-mt-en-mul",
        marker=">>.+<<", prompt="{tgt_code} {source}", language_code=marian_codes, buffers=("final_logits_bias",),
    ),
    Family(
        "marian", ("marian",), "encoder-decoder", title="OPUS-MT (Marian)", paper="arXiv 2212.01936",
        help="one language pair per model", alias="marian", checkpoint="Helsinki-NLP/opus-mt-en-de",
        buffers=("final_logits_bias",),
    ),
    Family(
        "llama", ("llama",), "decoder-only", title="Llama, ALMA, Tower", paper="arXiv 2309.11674",
        help="ALMA's prompt, or the chat template", alias="alma", checkpoint="haoranxu/ALMA-7B",
        prompt=None, adapter_modules=DECODER_LAYERS,
    ),
    Family(
        "qwen", ("qwen2", "qwen3"), "decoder-only", title="Qwen 2, Qwen 3", paper="arXiv 2505.09388",
        help="with the chat template, thinking off", checkpoint="Qwen/Qwen3-0.6B",
        prompt=None, adapter_modules=DECODER_LAYERS,
    ),
    Family(
        "gemma", ("gemma", "gemma2", "gemma3_text"), "decoder-only", title="Gemma 1 to 3", paper="arXiv 2403.08295",
        help="logits of Gemma 2 are soft-capped", checkpoint="google/gemma-2-2b-it",
        prompt=None, adapter_modules=DECODER_LAYERS,
    ),
    Family(
        "mistral", ("mistral", "mixtral"), "decoder-only", title="Mistral, Mixtral", paper="arXiv 2310.06825",
        help="Mixtral's router loss is added to the loss", checkpoint="mistralai/Mistral-7B-Instruct-v0.3",
        prompt=None, adapter_modules=DECODER_LAYERS,
    ),
    Family(
        "gpt-neox", ("gpt_neox",), "decoder-only", title="GPT-NeoX, Pythia", paper="arXiv 2204.06745",
        help="ALMA's prompt", checkpoint="EleutherAI/pythia-160m",
        prompt=None, adapter_modules=DECODER_LAYERS,
    ),
    Family(
        "gpt2", ("gpt2",), "decoder-only", title="GPT-2", paper="Radford et al. 2019",
        help="ALMA's prompt", checkpoint="openai-community/gpt2",
        prompt=None, adapter_modules=DECODER_LAYERS,
    ),
    Family(
        "cohere", ("cohere",), "decoder-only", title="Cohere Command R, Aya 23", paper="arXiv 2405.15032",
        help="logits are scaled", checkpoint="CohereLabs/aya-23-8B",
        prompt=None, adapter_modules=DECODER_LAYERS,
    ),
    Family(
        "granite", ("granite",), "decoder-only", title="Granite", paper="arXiv 2408.13359",
        help="logits are divided by a constant", checkpoint="ibm-granite/granite-3.1-2b-instruct",
        prompt=None, adapter_modules=DECODER_LAYERS,
    ),
)  # fmt: skip

ALIASES = {family.alias: family.checkpoint for family in FAMILIES if family.alias}
"""Short names of `--model`."""


# --- which family a model is of ---------------------------------------------------------------------------------------


def family_of(
    model_type: str, tokens: Collection[str], layout: LayoutName, user_family: Family | None = None
) -> Family:
    """Return the family of a model.

    Args:
        model_type: as in its config.json.
        tokens: of its tokenizer; they decide if families share a model type.
        layout: according to its config.
        user_family: the user's, which replaces the declared ones.

    Raises:
        UserError: no family is declared for this type, or the user's family is for other types.
    """
    if user_family is not None:
        return _check_user_family(user_family, model_type, layout)
    for family in FAMILIES:
        if model_type in family.model_types and (family.marker is None or _has(tokens, family.marker)):
            return family
    declared_types = sorted({model_type for family in FAMILIES for model_type in family.model_types})
    prompt = ", prompt=None" if layout == "decoder-only" else ""
    raise UserError(
        f"no family is declared for model type {model_type!r}{nearest(model_type, declared_types)}; known types: "
        f"{', '.join(declared_types)}. To use this model, write a file own.py with two lines, `from "
        "mtcpo.models.families import Family` and, for a model without language tokens, "
        f'`FAMILY = Family("{model_type}", ("{model_type}",), "{layout}"{prompt})`, and pass '
        "--family python:own:FAMILY --allow-code"
    )


def _has(tokens: Collection[str], marker: str) -> bool:
    pattern = re.compile(marker)
    return marker in tokens or any(pattern.fullmatch(token) for token in tokens)


def _check_user_family(family: Family, model_type: str, layout: LayoutName) -> Family:
    if model_type not in family.model_types:
        raise UserError(
            f"family {family.name!r} is for model type {' or '.join(family.model_types)}, and this model's is "
            f"{model_type!r}; add it to the family's model_types if it fits"
        )
    if layout != family.layout:
        raise UserError(f"family {family.name!r}: its layout is {family.layout!r}, but this model is {layout}")
    return family


def load_family(entry: Any, use: str = "--family") -> Family | None:
    """Return the user's family, given as `python:module:NAME` or as a `Family`; None if `entry` is None.

    Whether custom code may run at all is checked where the name is read (`check_code_allowed`).

    Raises:
        UserError: it cannot be imported, or is not a Family.
    """
    if entry is None:
        return None
    family: Family = load_user_code(entry, use, _needs_family)
    return family


def _needs_family(value: Any) -> str:
    return "" if isinstance(value, Family) else f"it is a {type(value).__name__}, not a Family"
