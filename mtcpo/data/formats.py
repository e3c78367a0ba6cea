"""Rows in other people's layouts as our records, and back: translation pairs, ALMA-R preferences, TRL preference sets.

Pure functions of one row. `where` is "file:line" for messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.data.languages import UNDETERMINED, check_language, english_name, same_language
from mtcpo.data.records import HUMAN, REFERENCE_SYSTEM, Candidate, Segment, Triplet, text_field
from mtcpo.data.templates import fill_fields


def translation_segments(
    row: Mapping[str, Any], src_lang: str | None, tgt_lang: str | None, row_id: str, where: str
) -> list[Segment]:
    """Make the segments of a `{"translation": {"en": ..., "de": ...}}` row, with candidates where it is an ALMA-R row.

    An ALMA-R row has a `language_pair` and serves both of its directions, or those in `required_directions`;
    `src_lang` and `tgt_lang` restrict it further, so the list may be empty.

    Raises:
        UserError: a plain row without src_lang and tgt_lang, or a language that the row does not have.
    """
    fields = row["translation"]
    if not isinstance(fields, Mapping):
        raise UserError(f"{where}: field 'translation' must map languages to texts")
    if fields.get("language_pair"):
        wanted = [
            (source, target)
            for source, target in _alma_directions(fields, where)
            if (src_lang is None or same_language(source, src_lang))
            and (tgt_lang is None or same_language(target, tgt_lang))
        ]
        return [_alma_segment(fields, pair, f"{row_id}:{'-'.join(pair)}", where) for pair in wanted]
    if src_lang is None or tgt_lang is None:
        raise UserError(f"{where}: a translation row has no direction; give src_lang and tgt_lang")
    source, target = _language_key(fields, src_lang, where), _language_key(fields, tgt_lang, where)
    return [_pair_segment(fields, (source, target), row_id, where)]


def _language_key(fields: Mapping[str, Any], language: str, where: str) -> str:
    """Return the key of `fields` that means `language`, however either is spelled."""
    if language in fields:
        return language
    for key in fields:
        try:
            if same_language(key, language):
                return key
        except UserError:
            continue  # a key that is no language is one of the row's other fields
    raise UserError(f"{where}: no translation into {language!r}; the row has {', '.join(sorted(fields))}")


def _alma_directions(fields: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    pairs = [pair.strip() for pair in (fields.get("required_directions") or "").split(",") if pair.strip()]
    if not pairs:
        first, _, second = str(fields["language_pair"]).partition("-")
        pairs = [f"{first}-{second}", f"{second}-{first}"]
    directions = [(source, target) for source, _, target in (pair.partition("-") for pair in pairs)]
    for source, target in directions:
        check_language(source)
        check_language(target)
    return directions


def _pair_segment(
    fields: Mapping[str, Any], pair: tuple[str, str], row_id: str, where: str, candidates: Sequence[Candidate] = ()
) -> Segment:
    source, target = pair
    return Segment(
        id=row_id,
        src_lang=check_language(source),
        tgt_lang=check_language(target),
        source=text_field(fields, source, where),
        references=(text_field(fields, target, where),),
        candidates=tuple(candidates),
    )


def _alma_segment(fields: Mapping[str, Any], pair: tuple[str, str], row_id: str, where: str) -> Segment:
    """Make one direction of an ALMA-R row: `{system}_{lang}` is a candidate, `{system}_{lang}_{scorer}` its score."""
    target = pair[1]
    suffix = f"_{target}"
    systems = [key.removesuffix(suffix) for key, value in fields.items() if key.endswith(suffix) and _is_text(value)]
    scores = {system: _alma_scores(fields, f"{system}{suffix}_") for system in systems}
    _add_verdict(scores, fields.get("Delta") or 0.0, where)
    candidates = [Candidate(system, fields[f"{system}{suffix}"], scores[system]) for system in systems]
    reference_scores = _alma_scores(fields, f"ref{suffix}_")
    if reference_scores:
        candidates.append(Candidate(REFERENCE_SYSTEM, text_field(fields, target, where), reference_scores))
    return _pair_segment(fields, pair, row_id, where, candidates)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _alma_scores(fields: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {
        key.removeprefix(prefix): float(value)
        for key, value in fields.items()
        if key.startswith(prefix) and isinstance(value, (int, float))
    }


def _add_verdict(scores: Mapping[str, dict[str, float]], delta: float, where: str) -> None:
    """Store a human verdict: Delta > 0 says that gpt4 is better than alma (card of haoranxu/ALMA-R-Preference)."""
    if not delta:
        return
    if not {"gpt4", "alma"} <= scores.keys():
        raise UserError(f"{where}: Delta compares the systems gpt4 and alma; the row has {', '.join(sorted(scores))}")
    scores["gpt4"][HUMAN] = float(delta)
    scores["alma"][HUMAN] = 0.0


def preference_triplet(row: Mapping[str, Any], row_id: str, where: str) -> Triplet:
    """Make a triplet of a TRL preference row: `prompt`, `chosen`, `rejected`, as strings or as conversations.

    Without `prompt` it is `source`, to which the model's own prompt is given, or else what chosen and rejected begin
    with in common: whole messages, or whole words. The X-ALMA layout (`source`, `chosen`, `reject`, `directions`) is
    read too.

    Raises:
        UserError: a field is missing, or a completion is not exactly one message.
    """
    if "reject" in row and "directions" in row:
        return _xalma_triplet(row, row_id, where)
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if chosen is None or rejected is None:
        raise UserError(f"{where}: a triplet needs 'chosen' and 'rejected'; the row has {', '.join(sorted(row))}")
    prompt = row.get("prompt")
    if prompt is None and _is_text(row.get("source")) and _is_text(chosen) and _is_text(rejected):
        return Triplet(row_id, UNDETERMINED, UNDETERMINED, row["source"], chosen, rejected)
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            length = _shared_words(chosen, rejected)
            prompt, chosen, rejected = chosen[:length], chosen[length:], rejected[length:]
        if not isinstance(prompt, str):
            raise UserError(f"{where}: 'prompt' must be a string where 'chosen' is one")
        return _prompted(row_id, prompt, prompt, chosen, rejected)
    chosen, rejected = _messages(chosen, "chosen", where), _messages(rejected, "rejected", where)
    if prompt is None:
        length = _shared_length(chosen, rejected)
        prompt, chosen, rejected = chosen[:length], chosen[length:], rejected[length:]
    prompt = _messages(prompt, "prompt", where)
    source = next((message["content"] for message in reversed(prompt) if message["role"] == "user"), "")
    return _prompted(
        row_id, source, tuple(prompt), _answer(chosen, "chosen", where), _answer(rejected, "rejected", where)
    )


def _prompted(row_id: str, source: str, prompt: Any, chosen: str, rejected: str) -> Triplet:
    return Triplet(row_id, UNDETERMINED, UNDETERMINED, source, chosen, rejected, prompt=prompt)


def _xalma_triplet(row: Mapping[str, Any], row_id: str, where: str) -> Triplet:
    source_lang, _, target_lang = text_field(row, "directions", where).partition("-")
    return Triplet(
        id=row_id,
        src_lang=check_language(source_lang),
        tgt_lang=check_language(target_lang),
        source=text_field(row, "source", where),
        chosen=text_field(row, "chosen", where),
        rejected=text_field(row, "reject", where),
    )


def _shared_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _shared_words(first: str, second: str) -> int:
    """Return the length of the common beginning up to the last whole word, without the space after it."""
    length = _shared_length(first, second)
    while length and not first[length : length + 1].isspace():
        length -= 1
    return length


def _messages(value: Any, key: str, where: str) -> list[dict[str, str]]:
    """Return a checked conversation: a list of messages with role and content."""
    if not isinstance(value, list):
        raise UserError(f"{where}: {key!r} must be a string or a list of messages, not {type(value).__name__}")
    for message in value:
        if (
            not isinstance(message, Mapping)
            or not _is_text(message.get("role"))
            or not _is_text(message.get("content"))
        ):
            raise UserError(f"{where}: {key!r}: a message needs 'role' and 'content' as strings")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _answer(messages: Sequence[Mapping[str, str]], key: str, where: str) -> str:
    if len(messages) != 1:
        raise UserError(f"{where}: {key!r} must be one message after the prompt, not {len(messages)}")
    return messages[0]["content"]


def trl_row(triplet: Triplet, template: str) -> dict[str, str]:
    """Return a triplet in TRL's standard form: prompt, chosen, rejected.

    template: the prompt with {source}, {src_name} and {tgt_name}. A triplet that came with a prompt keeps it; of a
    conversation only a single message can be kept so.

    Raises:
        UserError: a prompt of several messages, which the standard form cannot hold.
    """
    return {"prompt": _prompt_text(triplet, template), "chosen": triplet.chosen, "rejected": triplet.rejected}


def _prompt_text(triplet: Triplet, template: str) -> str:
    if isinstance(triplet.prompt, str):
        return triplet.prompt
    if triplet.prompt is not None:
        if len(triplet.prompt) > 1:
            raise UserError(f"triplet {triplet.id}: a prompt of several messages has no standard form")
        return "".join(message["content"] for message in triplet.prompt)
    values = {"source": triplet.source}
    if "_name}" in template:
        values |= {"src_name": english_name(triplet.src_lang), "tgt_name": english_name(triplet.tgt_lang)}
    return fill_fields(template, values)
