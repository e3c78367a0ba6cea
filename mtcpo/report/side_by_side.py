"""Translations side by side: which segments to show, where two translations differ, and their error spans.

The Markup returned here is safe on a page: every piece of text is escaped before it is marked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import NamedTuple

from markupsafe import Markup, escape
from rapidfuzz.distance import Indel

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, ErrorSpan, Segment
from mtcpo.report.wording import metric_title

MAX_TEXTS = 1200
"""Maximum number of texts shown for a test set: 300 segments with four texts each. More would open slowly."""

MIN_SEGMENTS = 30
"""Minimum number of segments shown, however many systems there are."""

# Units: a run of white space; a single ideograph, kana or syllable, as these scripts have no spaces; a punctuation
# mark; else a word. Words are whatever remains, so that combining marks (Devanagari, Arabic) stay with their letters.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PUNCTUATION = re.escape(".,;:!?…()[]{}<>\"'“”„‚‘’«»/。、，！？；：「」（）।؟،")
_TOKEN = re.compile(rf"\s+|[{_IDEOGRAPHS}]|[{_PUNCTUATION}]|[^\s{_IDEOGRAPHS}{_PUNCTUATION}]+")

ERROR = Markup('<span class="error {0}" title="{0} error, confidence {1:.0%}">{2}</span>')


class Piece(NamedTuple):
    """A piece of a text, and whether it is in the other text too."""

    same: bool
    text: str


@dataclass(frozen=True, slots=True)
class Output:
    """A system's translation as shown. gains: metric -> segment score minus the baseline's; positive is better."""

    system: str
    text: Markup
    is_empty: bool
    changed: bool
    scores: Mapping[str, float]
    gains: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """A segment as shown. number: its line in the test set, from 1. outputs: of the baseline, then the others."""

    number: int
    segment: Segment
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of a page, and the rule that chose them from `total` segments ("" if all are shown)."""

    rows: tuple[Row, ...]
    total: int
    rule: str


def words(text: str) -> list[str]:
    """Split a text into the units for showing differences; joined, they are the text again."""
    return _TOKEN.findall(text)


def mark_differences(
    before: str, after: str, errors: tuple[Sequence[ErrorSpan], Sequence[ErrorSpan]] = ((), ())
) -> tuple[Markup, Markup]:
    """Return both texts with their differences in `<mark>`: class "gone" in the first, "new" in the second.

    errors: error spans of the first and of the second text, also marked.
    """
    old, new = words(before), words(after)
    left, right = [], []
    # Indel has no substitutions: Levenshtein pairs unequal words to save an edit, and marks 17 % more of the text
    # on WMT22.
    blocks = list(Indel.opcodes(old, new))
    for place, block in enumerate(blocks):
        old_text = "".join(old[block.src_start : block.src_end])
        new_text = "".join(new[block.dest_start : block.dest_end])
        # A space between two differences reads better as part of one longer difference.
        is_inner_space = 0 < place < len(blocks) - 1 and old_text.isspace()
        same = block.tag == "equal" and not is_inner_space
        left.append(Piece(same, old_text))
        right.append(Piece(same, new_text))
    return _mark_pieces(left, "gone", errors[0]), _mark_pieces(right, "new", errors[1])


def _mark_pieces(pieces: Sequence[Piece], kind: str, errors: Sequence[ErrorSpan]) -> Markup:
    """Join the pieces of a text; adjacent differences share one mark."""
    marked, start = Markup(""), 0
    for same, run in groupby(pieces, key=itemgetter(0)):
        text = "".join(piece.text for piece in run)
        marked += mark_errors(text, errors, start) if same else _mark_difference(text, kind, errors, start)
        start += len(text)
    return marked


def _mark_difference(text: str, kind: str, errors: Sequence[ErrorSpan], start: int) -> Markup:
    """Mark a text without surrounding white space, unless it is all white space."""
    inner = text.strip() or text
    if not inner:
        return Markup("")
    first = text.index(inner)
    last = first + len(inner)
    before = mark_errors(text[:first], errors, start)
    inside = mark_errors(inner, errors, start + first)
    after = mark_errors(text[last:], errors, start + last)
    return Markup('{}<mark class="{}">{}</mark>{}').format(before, kind, inside, after)


def mark_errors(text: str, errors: Sequence[ErrorSpan], start: int = 0) -> Markup:
    """Return a text with its error spans in `<span class="error SEVERITY">`.

    start: offset of `text` in the whole translation, to which the errors' positions refer.
    """
    marked, done = Markup(""), 0
    for error in sorted(errors, key=attrgetter("start")):
        # Spans may overlap, and may begin or end outside this text.
        first, last = max(error.start - start, done), min(error.end - start, len(text))
        if first < last:
            marked += escape(text[done:first]) + ERROR.format(error.severity, error.confidence, text[first:last])
            done = last
    return marked + escape(text[done:])


def select_rows(
    segments: Iterable[Segment],
    baseline: str,
    others: Sequence[str],
    metric: str,
    span_metric: str | None = None,
) -> Selection:
    """Choose the segments to show: all if they are few, else the largest gains and losses and an even sample.

    Args:
        segments: With the systems as candidates, in the order of the test set.
        baseline: System against which gains and differences are shown.
        others: The other systems, in display order.
        metric: The metric for the largest gains and losses of the first of `others`.
        span_metric: The metric whose error spans are marked, if any.

    Raises:
        UserError: a segment lacks the translation of a system.
    """
    all_segments = list(segments)
    # Each segment has three more texts: source, reference and baseline.
    limit = max(MIN_SEGMENTS, MAX_TEXTS // (len(others) + 3))
    shown: Iterable[int] = range(len(all_segments))
    rule = ""
    if len(all_segments) > limit:
        extremes = _largest_gains_and_losses(all_segments, baseline, others, metric, limit // 3)
        count = limit - len(extremes)
        shown = sorted(extremes | _spread_evenly(len(all_segments), extremes, count))
        rule = f"{count} spread evenly over the test set"
        if others:
            largest = f"the {limit // 3} largest gains and losses each of {others[0]} on {metric_title(metric)}"
            rule = f"{largest}, and {count} spread evenly over the others"
    rows = tuple(_row(index + 1, all_segments[index], baseline, others, span_metric) for index in shown)
    return Selection(rows, len(all_segments), rule)


def _largest_gains_and_losses(
    segments: Sequence[Segment], baseline: str, others: Sequence[str], metric: str, count: int
) -> set[int]:
    """Return the indices of the segments where the first of `others` gains and loses most, `count` each."""
    if not others:
        return set()
    gains = [_gains(segment, others[0], baseline).get(metric, 0.0) for segment in segments]
    order = sorted(range(len(segments)), key=gains.__getitem__)
    return {*order[:count], *order[-count:]}


def _spread_evenly(total: int, taken: set[int], count: int) -> set[int]:
    """Return `count` indices spread evenly over those below `total` that are not taken."""
    rest = [index for index in range(total) if index not in taken]
    return {rest[place * len(rest) // count] for place in range(count)}


def _candidate(segment: Segment, system: str) -> Candidate:
    for candidate in segment.candidates:
        if candidate.system == system:
            return candidate
    raise UserError(f"segments.jsonl: segment {segment.id} has no translation of {system!r}; run mtcpo evaluate again")


def _gains(segment: Segment, system: str, baseline: str) -> dict[str, float]:
    """Return metric -> a system's segment score minus the baseline's; positive is better, for TER too."""
    baseline_scores = _candidate(segment, baseline).scores
    gains = {}
    for metric, score in _candidate(segment, system).scores.items():
        if metric in baseline_scores:
            gains[metric] = score - baseline_scores[metric]
    return gains


def _row(number: int, segment: Segment, baseline: str, others: Sequence[str], span_metric: str | None) -> Row:
    base = _candidate(segment, baseline)
    base_errors = base.errors.get(span_metric or "", ())
    # The baseline's text has difference marks only if there is a single other system.
    base_text = mark_errors(base.text, base_errors)
    outputs = []
    for system in others:
        candidate = _candidate(segment, system)
        errors = candidate.errors.get(span_metric or "", ())
        before, after = mark_differences(base.text, candidate.text, (base_errors, errors))
        if len(others) == 1:
            base_text = before
        is_empty, changed = not candidate.text.strip(), candidate.text != base.text
        gains = _gains(segment, system, baseline)
        outputs.append(Output(system, after, is_empty, changed, candidate.scores, gains))
    first = Output(baseline, base_text, not base.text.strip(), False, base.scores, {})
    return Row(number, segment, (first, *outputs))
