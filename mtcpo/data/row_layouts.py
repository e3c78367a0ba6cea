"""Row layouts of other projects: translation pairs, ALMA-R and X-ALMA preferences, TRL preference sets.

Pure functions that convert one row to mtcpo's records, or a record to a row. `where` is "file:line" for messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.data.languages import UNDETERMINED, check_language, english_name, same_language
from mtcpo.data.records import HUMAN, REFERENCE_SYSTEM, Candidate, Segment, Triplet, text_field
from mtcpo.data.templates import fill_fields


def translation_segments(
    row: Mapping[str, Any], src_lang: str | None, tgt_lang: str | None, row_id: str, where: str
) -> list[Segment]:
    """Return the segments of a row `{"translation": {"en": ..., "de": ...}}`.

    A row of the ALMA-R layout has a `language_pair` and candidates, and yields a segment for each direction, or only
    for `required_directions`; `src_lang` and `tgt_lang` restrict these further, so the list may be empty.

    Raises:
        UserError: src_lang and tgt_lang are not set for a plain row, or the row lacks one of the languages.
    """
    fields = row["translation"]
    if not isinstance(fields, Mapping):
        raise UserError(f"{where}: field 'translation' must map languages to texts")
    if fields.get("language_pair"):
        segments = []
        for source, target in _alma_directions(fields):
            is_source = src_lang is None or same_language(source, src_lang)
            is_target = tgt_lang is None or same_language(target, tgt_lang)
            if is_source and is_target:
                # Both directions of a row become segments, so the row's id alone would not be unique.
                segments.append(_alma_segment(fields, (source, target), f"{row_id}:{source}-{target}", where))
        return segments
    if src_lang is None or tgt_lang is None:
        raise UserError(
            f"{where}: a translation row does not say which language is the source; give src_lang and tgt_lang"
        )
    keys = _language_key(fields, src_lang, where), _language_key(fields, tgt_lang, where)
    return [_pair_segment(fields, keys, row_id, where)]


def _language_key(fields: Mapping[str, Any], language: str, where: str) -> str:
    """Return the key of `fields` for `language`; codes are compared in their standard form."""
    if language in fields:
        return language
    for key in fields:
        # For example deu_Latn for de.
        try:
            if same_language(key, language):
                return key
        except UserError:
            continue  # not a language: one of the row's other fields
    raise UserError(f"{where}: no translation into {language!r}; the row has {', '.join(sorted(fields))}")


def _alma_directions(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the (source, target) directions that an ALMA-R row may be used for, with the row's own language keys."""
    directions = []
    for pair in (fields.get("required_directions") or "").split(","):
        if pair.strip():
            source, _, target = pair.strip().partition("-")
            directions.append((source, target))
    if not directions:
        first, _, second = str(fields["language_pair"]).partition("-")
        directions = [(first, second), (second, first)]
    for languages in directions:
        for language in languages:
            check_language(language)
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
    suffix = f"_{pair[1]}"
    texts = {}
    scores = {}
    for key, value in fields.items():
        # A score field may end with the same suffix, but its value is a number.
        if key.endswith(suffix) and isinstance(value, str):
            system = key.removesuffix(suffix)
            texts[system] = value
            scores[system] = _alma_scores(fields, f"{key}_")
    _add_verdict(scores, fields.get("Delta") or 0.0, where)
    candidates = []
    for system, text in texts.items():
        candidates.append(Candidate(system, text, scores[system]))
    # The reference becomes a candidate only if it was scored, as in the published sets.
    reference_scores = _alma_scores(fields, f"ref{suffix}_")
    if reference_scores:
        candidates.append(Candidate(REFERENCE_SYSTEM, text_field(fields, pair[1], where), reference_scores))
    return _pair_segment(fields, pair, row_id, where, candidates)


def _alma_scores(fields: Mapping[str, Any], prefix: str) -> dict[str, float]:
    scores = {}
    for key, value in fields.items():
        if key.startswith(prefix) and isinstance(value, (int, float)):
            scores[key.removeprefix(prefix)] = float(value)
    return scores


def _add_verdict(scores: Mapping[str, dict[str, float]], delta: float, where: str) -> None:
    """Store a human verdict: Delta > 0 says that gpt4 is better than alma (card of haoranxu/ALMA-R-Preference)."""
    # 0 says that nobody compared the two, not that they are equally good.
    if not delta:
        return
    if not {"gpt4", "alma"} <= scores.keys():
        raise UserError(f"{where}: Delta compares the systems gpt4 and alma; the row has {', '.join(sorted(scores))}")
    scores["gpt4"][HUMAN] = float(delta)
    scores["alma"][HUMAN] = 0.0


def preference_triplet(row: Mapping[str, Any], row_id: str, where: str) -> Triplet:
    """Convert a TRL preference row (`prompt`, `chosen`, `rejected`, strings or conversations) to a triplet.

    A row may have a `source` instead of a prompt; the model's own prompt template is then applied to it. With neither,
    the prompt is the common beginning of chosen and rejected, in whole messages or whole words. The X-ALMA layout
    (`source`, `chosen`, `reject`, `directions`) is read too.

    Raises:
        UserError: a field is missing, or a completion is not exactly one message.
    """
    if "reject" in row and "directions" in row:
        return _xalma_triplet(row, row_id, where)
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if chosen is None or rejected is None:
        raise UserError(f"{where}: a triplet needs 'chosen' and 'rejected'; the row has {', '.join(sorted(row))}")
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        return _conversation_triplet(prompt, chosen, rejected, row_id, where)
    if prompt is None and isinstance(row.get("source"), str):
        return Triplet(row_id, UNDETERMINED, UNDETERMINED, row["source"], chosen, rejected)
    if prompt is None:
        length = _shared_words(chosen, rejected)
        prompt, chosen, rejected = chosen[:length], chosen[length:], rejected[length:]
    if not isinstance(prompt, str):
        raise UserError(f"{where}: 'prompt' must be a string if 'chosen' is one")
    return Triplet(row_id, UNDETERMINED, UNDETERMINED, prompt, chosen, rejected, prompt=prompt)


def _conversation_triplet(prompt: Any, chosen: Any, rejected: Any, row_id: str, where: str) -> Triplet:
    chosen, rejected = _messages(chosen, "chosen", where), _messages(rejected, "rejected", where)
    if prompt is None:
        length = _shared_length(chosen, rejected)
        prompt, chosen, rejected = chosen[:length], chosen[length:], rejected[length:]
    prompt = _messages(prompt, "prompt", where)
    # The last user message is the text to translate; system messages are instructions.
    source = ""
    for message in prompt:
        if message["role"] == "user":
            source = message["content"]
    return Triplet(
        id=row_id,
        src_lang=UNDETERMINED,
        tgt_lang=UNDETERMINED,
        source=source,
        chosen=_only_message(chosen, "chosen", where),
        rejected=_only_message(rejected, "rejected", where),
        prompt=tuple(prompt),
    )


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
    """Return the length of the common prefix of two sequences (characters or messages)."""
    length = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        length += 1
    return length


def _shared_words(first: str, second: str) -> int:
    """Return the length of the common prefix in characters, ending with a whole word, without the space after it."""
    length = _shared_length(first, second)
    # TRL splits inside words ("bl|ue" and "bl|ack"), where no tokenizer would split.
    while length and not first[length : length + 1].isspace():
        length -= 1
    return length


def _messages(value: Any, key: str, where: str) -> list[dict[str, str]]:
    """Check a conversation and return its messages with only `role` and `content`."""
    if not isinstance(value, list):
        raise UserError(f"{where}: {key!r} must be a string or a list of messages, not {type(value).__name__}")
    messages = []
    for message in value:
        fields = message if isinstance(message, Mapping) else {}
        role, content = fields.get("role"), fields.get("content")
        if not (isinstance(role, str) and isinstance(content, str)):
            raise UserError(f"{where}: {key!r}: a message needs 'role' and 'content' as strings")
        messages.append({"role": role, "content": content})
    return messages


def _only_message(messages: Sequence[Mapping[str, str]], key: str, where: str) -> str:
    if len(messages) != 1:
        raise UserError(f"{where}: {key!r} must be one message after the prompt, not {len(messages)}")
    return messages[0]["content"]


def trl_row(triplet: Triplet, template: str) -> dict[str, str]:
    """Return a triplet in TRL's standard form: prompt, chosen, rejected.

    template: the prompt template, with {source}, {src_name} and {tgt_name}. A triplet with a prompt of its own
    keeps it.

    Raises:
        UserError: a prompt of several messages, which the standard form cannot hold.
    """
    return {"prompt": _prompt_text(triplet, template), "chosen": triplet.chosen, "rejected": triplet.rejected}


def _prompt_text(triplet: Triplet, template: str) -> str:
    if isinstance(triplet.prompt, str):
        return triplet.prompt
    if triplet.prompt is not None:
        if len(triplet.prompt) > 1:
            raise UserError(
                f"triplet {triplet.id}: TRL's standard format has no prompts of several messages; leave it out"
            )
        return triplet.prompt[0]["content"] if triplet.prompt else ""
    values = {"source": triplet.source}
    # The languages may be unknown ("und"), so their names are looked up only if the template needs them.
    if "_name}" in template:
        values |= {"src_name": english_name(triplet.src_lang), "tgt_name": english_name(triplet.tgt_lang)}
    return fill_fields(template, values)
