"""What a model is given: a source with its targets, as text, and the templates that the source is put into."""

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

    src_lang, tgt_lang: BCP-47. targets: chosen, then rejected; or one reference; none where the source is to be
    translated. prompt: given to the model in place of the source and its template. id: for messages.
    """

    source: str
    src_lang: str
    tgt_lang: str
    targets: tuple[str, ...] = ()
    prompt: str | Messages | None = None
    id: str = ""


def fill_prompt(template: str, text: TextExample, codes: tuple[str, str] | None = None) -> str:
    """Return the source in its template.

    codes: what {src_code} and {tgt_code} stand for; default: the BCP-47 tags.

    Raises:
        UserError: the template names languages that are not known.
    """
    codes = codes or (text.src_lang, text.tgt_lang)
    names = {}
    if "_name}" in template:
        if UNDETERMINED in (text.src_lang, text.tgt_lang):
            raise UserError(f"the template {template!r} contains language names; give --src-lang and --tgt-lang")
        names = {"src_name": english_name(text.src_lang), "tgt_name": english_name(text.tgt_lang)}
    return fill_fields(template, {**names, "src_code": codes[0], "tgt_code": codes[1], "source": text.source})


def check_prompt(template: str, fields: Iterable[str] = PROMPT_FIELDS) -> str:
    """Return the template if it has {source}, and no fields but these.

    Raises:
        UserError: otherwise.
    """
    for name in re.findall(r"\{(\w+)\}", template):
        if name not in fields:
            raise choose("field of a prompt", name, fields)
    if "{source}" not in template:
        raise UserError(f"prompt {template!r}: the model would not see the source; write {{source}} where it belongs")
    return template
