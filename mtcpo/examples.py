"""From texts to tokenized examples: what is dropped on the way is counted, and nothing is ever cut."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

from mtcpo.corpora import Drops, read_triplets
from mtcpo.errors import UserError
from mtcpo.layouts import Example, Layout, Text
from mtcpo.records import Segment, Triplet
from mtcpo.trainconfig import TrainConfig

ENCODE_AT_ONCE = 1000
"""Texts tokenized in one call: enough to keep the tokenizer's threads busy, few enough to keep memory flat."""

NAMED_IDS = 5
"""How many ids of dropped examples a report names for each reason."""


@dataclasses.dataclass(slots=True)
class Encoded:
    """Tokenized examples, what was dropped on the way (reason -> number), and their languages.

    dropped_ids: reason -> the first ids, where they are known.
    """

    examples: list[Example]
    dropped: Counter[str]
    languages: tuple[str, str]
    dropped_ids: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def drop(self, reason: str, text: Text) -> None:
        """Count a text that is left out, and keep its id if it is among the first."""
        self.dropped[reason] += 1
        ids = self.dropped_ids.setdefault(reason, [])
        if text.id and len(ids) < NAMED_IDS:
            ids.append(text.id)


def pair_texts(triplets: Iterable[Triplet]) -> Iterator[Text]:
    """Yield what training needs of triplets: the source, or the prompt, with (chosen, rejected)."""
    for t in triplets:
        yield Text(t.source, t.src_lang, t.tgt_lang, (t.chosen, t.rejected), t.prompt, t.id)


def reference_texts(segments: Iterable[Segment]) -> Iterator[Text]:
    """Yield what supervised training needs: each source with each of its references."""
    for segment in segments:
        if not segment.references:
            raise UserError(f"segment {segment.id}: no reference, and supervised training needs one")
        for reference in segment.references:
            yield Text(segment.source, segment.src_lang, segment.tgt_lang, (reference,), id=segment.id)


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
                found.drop(reason, text)
            else:
                found.examples.append(example)
    return found


def not_empty(kind: str, data: Encoded) -> Encoded:
    """Return the examples if there is one.

    Raises:
        UserError: all were dropped; the message says why.
    """
    if not data.examples:
        named = {reason: f" ({', '.join(ids)})" if ids else "" for reason, ids in data.dropped_ids.items()}
        counts = ", ".join(f"{count} {reason}{named.get(reason, '')}" for reason, count in sorted(data.dropped.items()))
        raise UserError(f"no {kind} example is left: {counts or 'there was none'}")
    return data


def evaluation_examples(layout: Layout, config: TrainConfig, texts: Iterable[Text] | None = None) -> Encoded | None:
    """Tokenize the pairs that training does not see: `texts`, else those of `config.eval`; None where there are none.

    Raises:
        UserError: no pair is left.
    """
    drops = Drops()
    if texts is None and config.eval is not None:
        texts = pair_texts(read_triplets(config.eval.corpus, drops))
    if texts is None:
        return None
    found = encode_within_limits(layout, texts, config)
    found.dropped.update(drops)
    return not_empty("evaluation", found)


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
    return "too_long_for_model" if limit is not None and layout.longest(example) > limit else None
