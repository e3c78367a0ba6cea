"""Translations side by side: which segments are shown, where two translations differ, and the errors in them.

Differences and errors are Markup that is safe to put on a page: every piece of text is escaped before it is marked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter

from markupsafe import Markup, escape

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, ErrorSpan, Segment
from mtcpo.report.wording import metric_title

MAX_TEXTS = 1200
"""Translations shown of one test set: 300 segments with four texts each. More makes the page slow to open."""

MAX_COMPARISONS = 250_000
"""Words times words up to which two texts are aligned word by word; a translation that loops can have thousands."""

# A run of white space; one ideograph, kana or syllable, since these scripts have no spaces; one mark of punctuation;
# else a word. Words are "what is left", so that combining marks (Devanagari, Arabic) stay with their letters.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PUNCTUATION = re.escape(".,;:!?…()[]{}<>\"'“”„‚‘’«»/。、，！？；：「」（）।؟،")
_TOKEN = re.compile(rf"\s+|[{_IDEOGRAPHS}]|[{_PUNCTUATION}]|[^\s{_IDEOGRAPHS}{_PUNCTUATION}]+")


ERROR = Markup('<span class="error {0}" title="{0} error, {1:.0%} sure">{2}</span>')


@dataclass(frozen=True, slots=True)
class Output:
    """A system's translation as shown. gains: score minus the baseline's by metric, positive is better."""

    system: str
    text: Markup
    is_empty: bool
    changed: bool
    scores: Mapping[str, float]
    gains: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """A segment as shown. number: its line in the test set, from 1. outputs: the baseline's first."""

    number: int
    segment: Segment
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of a page, and by which rule they were chosen of `total` segments ("" where all are shown)."""

    rows: tuple[Row, ...]
    total: int
    rule: str


def words(text: str) -> list[str]:
    """Split a text into the units in which differences are shown; joined they give the text again."""
    return _TOKEN.findall(text)


def mark_differences(
    before: str, after: str, errors: tuple[Sequence[ErrorSpan], Sequence[ErrorSpan]] = ((), ())
) -> tuple[Markup, Markup]:
    """Return both texts with what only one of them has in `<mark>`: class "gone" in the first, "new" in the second.

    errors: of the first and of the second, to be marked too.
    """
    old, new = words(before), words(after)
    left: list[tuple[bool, str]] = []
    right: list[tuple[bool, str]] = []
    spans = _alignment(old, new)
    for place, (same, (a, b), (c, d)) in enumerate(spans):
        texts = "".join(old[a:b]), "".join(new[c:d])
        # A space between two differences reads better as a part of one longer difference.
        plain = same and not (0 < place < len(spans) - 1 and texts[0].isspace())
        left.append((plain, texts[0]))
        right.append((plain, texts[1]))
    return _marked(left, "gone", errors[0]), _marked(right, "new", errors[1])


def _marked(pieces: Sequence[tuple[bool, str]], kind: str, errors: Sequence[ErrorSpan]) -> Markup:
    """Join (plain, text) pieces, neighbouring differences under one mark."""
    found, at = [], 0
    for plain, run in groupby(pieces, key=itemgetter(0)):
        text = "".join(text for _, text in run)
        found.append(mark_errors(text, errors, at) if plain else _mark(text, kind, errors, at))
        at += len(text)
    return Markup("").join(found)


def _mark(text: str, kind: str, errors: Sequence[ErrorSpan], at: int) -> Markup:
    """Mark a text without the space around it; one that is nothing but space is marked as it is."""
    inner = text.strip() or text
    if not inner:
        return Markup("")
    start = text.index(inner)
    parts = ((0, start), (start, start + len(inner)), (start + len(inner), len(text)))
    before, inside, after = (mark_errors(text[a:b], errors, at + a) for a, b in parts)
    return Markup('{}<mark class="{}">{}</mark>{}').format(before, kind, inside, after)


def mark_errors(text: str, errors: Sequence[ErrorSpan], at: int = 0) -> Markup:
    """Return a text with the errors in `<span class="error SEVERITY">`; it begins at character `at` of the whole."""
    found, done = Markup(""), 0
    for error in sorted(errors, key=attrgetter("start")):
        first, end = max(error.start - at, done), min(error.end - at, len(text))
        if first < end:
            found += escape(text[done:first]) + ERROR.format(error.severity, error.confidence, text[first:end])
            done = end
    return found + escape(text[done:])


def _alignment(old: Sequence[str], new: Sequence[str]) -> list[tuple[bool, tuple[int, int], tuple[int, int]]]:
    """Return consecutive spans of both texts, each with whether it is the same in both."""
    if len(old) * len(new) <= MAX_COMPARISONS:
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
        return [(kind == "equal", (a, b), (c, d)) for kind, a, b, c, d in matcher.get_opcodes()]
    shorter = min(len(old), len(new))
    start = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    end = next((i for i in range(shorter - start) if old[-1 - i] != new[-1 - i]), shorter - start)
    a, b = len(old) - end, len(new) - end
    return [(True, (0, start), (0, start)), (False, (start, a), (start, b)), (True, (a, len(old)), (b, len(new)))]


def select_rows(
    segments: Iterable[Segment], baseline: str, others: Sequence[str], metric: str, errors_by: str | None = None
) -> Selection:
    """Choose what to show: all segments where they are few, else the largest gains and losses and an even sample.

    Args:
        segments: With the systems as candidates, in the order of the test set.
        baseline: System that gains are measured against, and differences marked against.
        others: The other systems, in the order in which they are shown.
        metric: Whose gains and losses choose, of the first of `others`.
        errors_by: The metric whose errors are marked.

    Raises:
        UserError: a segment lacks the translation of a system.
    """
    numbered = list(enumerate(segments, start=1))
    limit = max(30, MAX_TEXTS // (len(others) + 3))
    if len(numbered) <= limit:
        return Selection(tuple(_row(*one, baseline, others, errors_by) for one in numbered), len(numbered), "")
    chosen, rule = set[int](), ""
    if others:
        third = limit // 3
        order = sorted(numbered, key=lambda item: _gains(item[1], others[0], baseline).get(metric, 0.0))
        chosen = {n for n, _ in order[:third] + order[-third:]}
        rule = f"the {third} largest gains and losses each of {others[0]} on {metric_title(metric)}, and "
    rest = [n for n, _ in numbered if n not in chosen]
    count = limit - len(chosen)
    chosen |= {rest[place * len(rest) // count] for place in range(count)}
    rows = tuple(_row(n, segment, baseline, others, errors_by) for n, segment in numbered if n in chosen)
    return Selection(rows, len(numbered), f"{rule}{count} spread evenly over the {'others' if others else 'test set'}")


def _candidate(segment: Segment, system: str) -> Candidate:
    for candidate in segment.candidates:
        if candidate.system == system:
            return candidate
    raise UserError(f"segments.jsonl: segment {segment.id} has no translation of {system!r}; run mtcpo evaluate again")


def _gains(segment: Segment, system: str, baseline: str) -> dict[str, float]:
    scores, base = _candidate(segment, system).scores, _candidate(segment, baseline).scores
    return {metric: score - base[metric] for metric, score in scores.items() if metric in base}


def _row(number: int, segment: Segment, baseline: str, others: Sequence[str], errors_by: str | None) -> Row:
    base = _candidate(segment, baseline)
    errors = {c.system: c.errors.get(errors_by or "", ()) for c in segment.candidates}
    marked = [
        mark_differences(base.text, _candidate(segment, system).text, (errors[baseline], errors[system]))
        for system in others
    ]
    # With one other system there is one thing to differ from; with several, the baseline's differences stay unmarked.
    base_text = marked[0][0] if len(others) == 1 else mark_errors(base.text, errors[baseline])
    outputs = [Output(baseline, base_text, not base.text.strip(), False, base.scores, {})]
    for system, (_, text) in zip(others, marked, strict=True):
        candidate = _candidate(segment, system)
        gains = _gains(segment, system, baseline)
        empty, changed = not candidate.text.strip(), candidate.text != base.text
        outputs.append(Output(system, text, empty, changed, candidate.scores, gains))
    return Row(number, segment, tuple(outputs))
