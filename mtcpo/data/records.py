"""The three records that every stage reads and writes (segment, candidate, triplet), to and from JSON objects.

The conversion is written by hand, without pydantic: the COMET worker imports this module in environments that may lack
pydantic. Nor would a stream, which both reads and writes, be faster with pydantic's TypeAdapter. Records per second of
CPU time, for segments with four candidates: writing 110,000 (TypeAdapter: 75,000), reading 45,000 (79,000).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mtcpo.core.errors import UserError

Messages = tuple[Mapping[str, str], ...]
"""A conversation: messages with `role` and `content`."""

SEVERITIES = ("minor", "major", "critical")

HUMAN = "human"
"""The key of a human verdict among the scores; it overrides every metric."""

REFERENCE_SYSTEM = "reference"
"""The system name of a reference that is a candidate; further ones are `reference-2` and so on."""


@dataclass(frozen=True, slots=True)
class ErrorSpan:
    """An error that a metric marks in a translation.

    text: as the metric reads it. start, end: character offsets in the translation, end exclusive. severity: one of
    SEVERITIES, unless a model has labels of its own. confidence: 0 to 1.
    """

    text: str
    start: int
    end: int
    severity: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One translation of a segment.

    scores: metric name -> value, higher is better (TER is stored negated). logprob: nats, summed over tokens. errors:
    metric name -> error spans, for metrics that find them.
    """

    system: str
    text: str
    scores: Mapping[str, float] = field(default_factory=dict)
    logprob: float | None = None
    errors: Mapping[str, tuple[ErrorSpan, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Segment:
    """One source text with its human references and its systems' candidates. Languages are BCP-47 tags."""

    id: str
    src_lang: str
    tgt_lang: str
    source: str
    references: tuple[str, ...] = ()
    doc: str | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Triplet:
    """A source with a better and a worse translation.

    margin: value of chosen minus value of rejected, > 0. prompt: replaces the prompt made from source and template, for
    preference sets that come with prompts; languages may then be "und".
    """

    id: str
    src_lang: str
    tgt_lang: str
    source: str
    chosen: str
    rejected: str
    chosen_system: str = ""
    rejected_system: str = ""
    chosen_scores: Mapping[str, float] = field(default_factory=dict)
    rejected_scores: Mapping[str, float] = field(default_factory=dict)
    margin: float = 0.0
    prompt: str | Messages | None = None


def segment_to_json(segment: Segment) -> dict[str, Any]:
    """Return the JSON object of a segment; empty optional fields are left out."""
    row: dict[str, Any] = {
        "id": segment.id,
        "src_lang": segment.src_lang,
        "tgt_lang": segment.tgt_lang,
        "source": segment.source,
        "references": list(segment.references),
    }
    if segment.doc is not None:
        row["doc"] = segment.doc
    row["candidates"] = [_candidate_to_json(candidate) for candidate in segment.candidates]
    return row


def _candidate_to_json(candidate: Candidate) -> dict[str, Any]:
    row: dict[str, Any] = {"system": candidate.system, "text": candidate.text, "scores": dict(candidate.scores)}
    if candidate.logprob is not None:
        row["logprob"] = candidate.logprob
    if candidate.errors:
        row["errors"] = errors_to_json(candidate.errors)
    return row


def errors_to_json(errors: Mapping[str, Iterable[ErrorSpan]]) -> dict[str, Any]:
    """Return the JSON object of error spans: metric name -> list of spans."""
    rows = {}
    for metric, spans in errors.items():
        rows[metric] = [asdict(span) for span in spans]
    return rows


def triplet_to_json(triplet: Triplet) -> dict[str, Any]:
    """Return the JSON object of a triplet; `prompt` only if there is one."""
    row: dict[str, Any] = {
        "id": triplet.id,
        "src_lang": triplet.src_lang,
        "tgt_lang": triplet.tgt_lang,
        "source": triplet.source,
        "chosen": triplet.chosen,
        "rejected": triplet.rejected,
        "chosen_system": triplet.chosen_system,
        "rejected_system": triplet.rejected_system,
        "chosen_scores": dict(triplet.chosen_scores),
        "rejected_scores": dict(triplet.rejected_scores),
        "margin": triplet.margin,
    }
    if triplet.prompt is None:
        return row
    prompt = triplet.prompt if isinstance(triplet.prompt, str) else [dict(message) for message in triplet.prompt]
    return row | {"prompt": prompt}


def text_field(row: Mapping[str, Any], key: str, where: str) -> str:
    """Return `row[key]`, which must be a string. `where` is "file:line" for the message."""
    if key not in row:
        raise UserError(f"{where}: no field {key!r}; the row has {', '.join(sorted(row)) or 'none at all'}")
    value = row[key]
    if not isinstance(value, str):
        raise UserError(f"{where}: field {key!r} must be a string, not {type(value).__name__}")
    return value


def _number(value: Any, key: str, where: str) -> float:
    # bool is a subclass of int; NaN would make every comparison of candidates false.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{where}: {key} must be a finite number, not {value!r}")
    return float(value)


def _scores(row: Mapping[str, Any], key: str, where: str) -> dict[str, float]:
    scores = row.get(key) or {}
    if not isinstance(scores, Mapping):
        raise UserError(f"{where}: field {key!r} must map metric names to numbers")
    numbers = {}
    for name, value in scores.items():
        # Parquet returns all fields of a struct: a metric that a row lacks arrives as None.
        if value is not None:
            numbers[name] = _number(value, f"score {name!r}", where)
    return numbers


def _list(row: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    value = row.get(key) or []  # null counts as an empty list: Parquet may write it so
    if not isinstance(value, list):
        raise UserError(f"{where}: field {key!r} must be a list")
    return value


def segment_from_json(row: Mapping[str, Any], where: str) -> Segment:
    """Return the segment of a JSON object. where: "file:line", for messages.

    Raises:
        UserError: a field is missing or of the wrong type.
    """
    references = _list(row, "references", where)
    if not all(isinstance(reference, str) for reference in references):
        raise UserError(f"{where}: references must be strings")
    doc = row.get("doc")
    return Segment(
        id=text_field(row, "id", where),
        src_lang=text_field(row, "src_lang", where),
        tgt_lang=text_field(row, "tgt_lang", where),
        source=text_field(row, "source", where),
        references=tuple(references),
        doc=None if doc is None else str(doc),
        candidates=tuple(_candidate_from_json(c, where) for c in _list(row, "candidates", where)),
    )


def _candidate_from_json(row: Any, where: str) -> Candidate:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: a candidate must be an object with 'system' and 'text'")
    logprob = row.get("logprob")
    return Candidate(
        system=text_field(row, "system", where),
        text=text_field(row, "text", where),
        scores=_scores(row, "scores", where),
        logprob=None if logprob is None else _number(logprob, "logprob", where),
        errors=_errors(row, where),
    )


def _errors(row: Mapping[str, Any], where: str) -> dict[str, tuple[ErrorSpan, ...]]:
    errors = row.get("errors") or {}
    try:
        spans = {}
        for metric, rows in errors.items():
            # As with scores, Parquet returns None for a metric that a row lacks.
            if rows is not None:
                spans[metric] = tuple(ErrorSpan(**row) for row in rows)
        return spans
    except (TypeError, AttributeError):
        names = ", ".join(field.name for field in fields(ErrorSpan))
        raise UserError(f"{where}: field 'errors' must map metric names to lists of objects with {names}") from None


def triplet_from_json(row: Mapping[str, Any], where: str) -> Triplet:
    """Return the triplet of a JSON object in mtcpo's layout; other layouts are read by `row_layouts`."""
    return Triplet(
        id=text_field(row, "id", where),
        src_lang=text_field(row, "src_lang", where),
        tgt_lang=text_field(row, "tgt_lang", where),
        source=text_field(row, "source", where),
        chosen=text_field(row, "chosen", where),
        rejected=text_field(row, "rejected", where),
        chosen_system=str(row.get("chosen_system", "")),
        rejected_system=str(row.get("rejected_system", "")),
        chosen_scores=_scores(row, "chosen_scores", where),
        rejected_scores=_scores(row, "rejected_scores", where),
        margin=_number(row.get("margin", 0.0), "margin", where),
        prompt=_prompt(row.get("prompt"), where),
    )


def _prompt(value: Any, where: str) -> str | Messages | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise UserError(f"{where}: field 'prompt' must be a string or a list of messages, not {type(value).__name__}")
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise UserError(f"{where}: field 'prompt': each message needs 'role' and 'content'")
    return tuple(value)


def is_reference(system: str) -> bool:
    """Whether a candidate of this system is a reference."""
    return re.fullmatch(rf"{REFERENCE_SYSTEM}(-\d+)?", system) is not None
