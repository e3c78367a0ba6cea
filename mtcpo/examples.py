"""From texts to tokenized examples: what is dropped on the way is counted, and nothing is ever cut."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

from mtcpo.errors import UserError
from mtcpo.languages import UNDETERMINED
from mtcpo.layouts import Example, Layout, Text
from mtcpo.records import Segment, Triplet
from mtcpo.trainconfig import TrainConfig

ENCODE_AT_ONCE = 1000
"""Texts tokenized in one call: enough to keep the tokenizer's threads busy, few enough to keep memory flat."""


@dataclasses.dataclass(slots=True)
class Encoded:
    """Tokenized examples, what was dropped on the way (reason -> number), and their languages."""

    examples: list[Example]
    dropped: Counter[str]
    languages: tuple[str, str]


def pair_texts(triplets: Iterable[Triplet], src_lang: str | None = None, tgt_lang: str | None = None) -> Iterator[Text]:
    """Yield what training needs of triplets: the source, or the prompt, with (chosen, rejected).

    src_lang, tgt_lang: BCP-47, of those that do not say theirs.
    """
    for t in triplets:
        source_lang = src_lang if src_lang and t.src_lang == UNDETERMINED else t.src_lang
        target_lang = tgt_lang if tgt_lang and t.tgt_lang == UNDETERMINED else t.tgt_lang
        yield Text(t.source, source_lang, target_lang, (t.chosen, t.rejected), t.prompt)


def reference_texts(segments: Iterable[Segment]) -> Iterator[Text]:
    """Yield what supervised training needs: each source with each of its references."""
    for segment in segments:
        if not segment.references:
            raise UserError(f"segment {segment.id}: no reference, and supervised training needs one")
        for reference in segment.references:
            yield Text(segment.source, segment.src_lang, segment.tgt_lang, (reference,))


def encode_within_limits(layout: Layout, texts: Iterable[Text], config: TrainConfig) -> Encoded:
    """Tokenize texts; drop and count those that are empty, without a contrast, or too long for model or config.

    Nothing is ever cut: a cut target has no end token.
    """
    found = Encoded([], Counter(), ("und", "und"))
    iterator = iter(texts)
    while group := list(itertools.islice(iterator, ENCODE_AT_ONCE)):
        if config.loss == "sft":
            group = [dataclasses.replace(text, targets=text.targets[:1]) for text in group]
        found.languages = (group[-1].src_lang, group[-1].tgt_lang)
        for text, example in zip(group, layout.encode(group), strict=True):
            reason = _reason_to_drop(text, example, layout, config)
            if reason:
                found.dropped[reason] += 1
            else:
                found.examples.append(example)
    return found


def not_empty(kind: str, data: Encoded) -> Encoded:
    """Return `data`; without an example, raise UserError with what was dropped."""
    if not data.examples:
        counts = ", ".join(f"{number} {reason}" for reason, number in sorted(data.dropped.items()))
        raise UserError(f"no {kind} example is left: {counts or 'there was none'}")
    return data


def _reason_to_drop(text: Text, example: Example, layout: Layout, config: TrainConfig) -> str | None:
    given = text.source if text.prompt is None else text.prompt
    if not (given.strip() if isinstance(given, str) else given):
        return "empty_source"
    if not all(target.strip() for target in text.targets):
        return "empty_target"
    if len(set(example.targets)) < len(example.targets):
        return "chosen_equals_rejected"
    longest = max(len(target) for target in example.targets)
    if config.max_source_tokens is not None and len(example.source) > config.max_source_tokens:
        return "source_too_long"
    if config.max_target_tokens is not None and longest > config.max_target_tokens:
        return "target_too_long"
    limit = layout.max_positions
    return "too_long_for_model" if limit is not None and max(layout.lengths(example)) > limit else None
