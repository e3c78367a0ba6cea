"""Model input as text: a source with its targets, and the prompt templates that are filled with the source."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mtcpo.core.errors import UserError, choose
from mtcpo.data.languages import UNDETERMINED, english_name
from mtcpo.data.records import Messages
from mtcpo.data.templates import fill_fields

PROMPT_FIELDS = ("source", "src_name", "tgt_name", "src_code", "tgt_code")

ALMA_PROMPT = "Translate this from {src_name} to {tgt_name}:\n{src_name}: {source}\n{tgt_name}:"
"""The template of ALMA (arXiv 2309.11674), for decoder-only models without a chat template."""

CHAT_PROMPT = "Translate this from {src_name} to {tgt_name}. Give only the translation.\n{source}"
"""The user's message, for decoder-only models with a chat template."""


@dataclass(frozen=True, slots=True)
class TextExample:
    """A source with its targets, as text.

    src_lang, tgt_lang: BCP-47. targets: (chosen, rejected), (reference,), or () for translation. prompt: replaces the
    prompt made from source and template. id: for messages.
    """

    source: str
    src_lang: str
    tgt_lang: str
    targets: tuple[str, ...] = ()
    prompt: str | Messages | None = None
    id: str = ""


def fill_prompt(template: str, text: TextExample, codes: tuple[str, str] | None = None) -> str:
    """Return the prompt: the template filled with a source.

    codes: values of {src_code} and {tgt_code}; default: the BCP-47 tags.

    Raises:
        UserError: the template needs a language that is unknown.
    """
    codes = codes or (text.src_lang, text.tgt_lang)
    names = {}
    if "_name}" in template:
        if UNDETERMINED in (text.src_lang, text.tgt_lang):
            raise UserError(f"the template {template!r} contains language names; give --src-lang and --tgt-lang")
        names = {"src_name": english_name(text.src_lang), "tgt_name": english_name(text.tgt_lang)}
    return fill_fields(template, {**names, "src_code": codes[0], "tgt_code": codes[1], "source": text.source})


def check_prompt(template: str, fields: Iterable[str] = PROMPT_FIELDS) -> str:
    """Return the template if it has {source} and no other fields than `fields`.

    Raises:
        UserError: {source} is missing, or there is another field.
    """
    for name in re.findall(r"\{(\w+)\}", template):
        if name not in fields:
            raise choose("field of a prompt", name, fields)
    if "{source}" not in template:
        raise UserError(f"prompt {template!r}: the model would not see the source; write {{source}} where it belongs")
    return template
