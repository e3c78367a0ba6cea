"""Tokenize texts to examples. What is dropped is counted, and nothing is ever truncated."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from mtcpo.core.errors import UserError
from mtcpo.data.corpora import Drops
from mtcpo.data.records import Segment, Triplet
from mtcpo.data.triplets import open_triplets
from mtcpo.models.layouts.base import Example, Layout
from mtcpo.models.prompts import TextExample
from mtcpo.training.config import TrainConfig
from mtcpo.training.token_cache import Notes, cached_examples, spooled

ENCODE_AT_ONCE = 1000
"""Texts tokenized in one call: enough to keep the tokenizer's threads busy, few enough to keep memory flat."""

NAMED_IDS = 5
"""How many ids of dropped examples a report lists for each reason."""


@dataclasses.dataclass(slots=True)
class Encoded:
    """Tokenized examples, how many were dropped by reason, and the languages of the last ones.

    dropped_ids: reason -> the first ids, where they are known. sha256: of all token ids.
    """

    examples: Sequence[Example]
    dropped: Counter[str]
    languages: tuple[str, str]
    dropped_ids: dict[str, list[str]]
    sha256: str


def pair_texts(triplets: Iterable[Triplet]) -> Iterator[TextExample]:
    """Yield the parts of triplets that training needs: source or prompt, with (chosen, rejected)."""
    for t in triplets:
        yield TextExample(t.source, t.src_lang, t.tgt_lang, (t.chosen, t.rejected), t.prompt, t.id)


def reference_texts(segments: Iterable[Segment]) -> Iterator[TextExample]:
    """Yield the examples for SFT: each source with each of its references.

    Raises:
        UserError: a segment has no reference.
    """
    for segment in segments:
        if not segment.references:
            raise UserError(f"segment {segment.id}: no reference, and supervised training needs one")
        for reference in segment.references:
            yield TextExample(segment.source, segment.src_lang, segment.tgt_lang, (reference,), id=segment.id)


def encode_within_limits(layout: Layout, texts: Iterable[TextExample], config: TrainConfig) -> Encoded:
    """Tokenize texts; drop and count those that are empty, with equal targets, or too long for model or config.

    Nothing is truncated: a truncated target has no end token. Already tokenized data come from the token cache.
    """
    run = _Tokenization(layout, config)
    # Everything that determines the examples, besides layout and texts.
    settings = config.loss == "sft", config.max_source_tokens, config.max_target_tokens
    with spooled(texts) as spool:
        examples, notes = cached_examples(layout, spool, settings, run.examples, run.notes)
    src_lang, tgt_lang = notes["languages"]
    dropped = Counter[str](notes["dropped"])
    return Encoded(examples, dropped, (src_lang, tgt_lang), notes["dropped_ids"], notes["sha256"])


@dataclasses.dataclass(slots=True)
class _Tokenization:
    """One pass over texts, with what it drops."""

    layout: Layout
    config: TrainConfig
    languages: tuple[str, str] = ("und", "und")
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    dropped_ids: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def examples(self, texts: Iterable[TextExample]) -> Iterator[Example]:
        """Yield the examples that are kept."""
        iterator = iter(texts)
        while group := list(itertools.islice(iterator, ENCODE_AT_ONCE)):
            if self.config.loss == "sft":
                group = [dataclasses.replace(text, targets=text.targets[:1]) for text in group]
            self.languages = (group[-1].src_lang, group[-1].tgt_lang)
            for text, example in zip(group, self.layout.encode(group), strict=True):
                reason = _reason_to_drop(text, example, self.layout, self.config)
                if reason:
                    self._drop(reason, text)
                else:
                    yield example

    def notes(self) -> Notes:
        """Return the notes for reports, once all examples have been yielded."""
        return {"languages": self.languages, "dropped": self.dropped, "dropped_ids": self.dropped_ids}

    def _drop(self, reason: str, text: TextExample) -> None:
        """Count a dropped text, and keep its id if it is among the first."""
        self.dropped[reason] += 1
        ids = self.dropped_ids.setdefault(reason, [])
        if text.id and len(ids) < NAMED_IDS:
            ids.append(text.id)


def require_examples(kind: str, encoded: Encoded) -> Encoded:
    """Return `encoded` if it has at least one example.

    Raises:
        UserError: all were dropped; the message says why.
    """
    if encoded.examples:
        return encoded
    counts = []
    for reason, count in sorted(encoded.dropped.items()):
        ids = encoded.dropped_ids.get(reason)
        counts.append(f"{count} {reason}" + (f" ({', '.join(ids)})" if ids else ""))
    raise UserError(f"no {kind} example is left: {', '.join(counts) or 'there was none'}")


@dataclasses.dataclass(frozen=True, slots=True)
class CountedTexts:
    """Texts to tokenize; `drops` counts what their reader drops."""

    texts: Iterable[TextExample]
    drops: Drops

    def encode(self, kind: str, layout: Layout, config: TrainConfig) -> Encoded:
        """Tokenize the texts; kind: "training" or "evaluation", for the message.

        Raises:
            UserError: no example is left.
        """
        encoded = encode_within_limits(layout, self.texts, config)
        # Only now: `drops` is complete once all texts have been read.
        encoded.dropped.update(self.drops)
        return require_examples(kind, encoded)


def evaluation_texts(
    config: TrainConfig, texts: Iterable[TextExample] | None = None, prompt: str | None = None
) -> CountedTexts | None:
    """Return `texts`, else the pairs of `config.eval` (the first is read now), else None.

    Raises:
        UserError: the file is missing or has no triplets.
    """
    drops = Drops()
    if texts is None and config.eval is not None:
        texts = pair_texts(open_triplets(config.eval.corpus, drops))
    return None if texts is None else CountedTexts(with_template(texts, prompt), drops)


def with_template(texts: Iterable[TextExample], template: str | None) -> Iterator[TextExample]:
    """Yield the texts unchanged, after checking that the template, if any, applies to them.

    Raises:
        UserError: a text has a prompt of its own, so that the template would have no effect.
    """
    for text in texts:
        if template is not None and text.prompt is not None:
            raise UserError(
                f"{text.id or 'a pair'}: it has its own prompt, so the template {template!r} would not be used; "
                "leave the template out, or use the prompt column as the source: --set data.source_column=prompt"
            )
        yield text


def _reason_to_drop(text: TextExample, example: Example, layout: Layout, config: TrainConfig) -> str | None:
    """Return why an example cannot be used for training, or None if it can."""
    source = text.source if text.prompt is None else text.prompt
    is_empty = not source.strip() if isinstance(source, str) else not source  # a conversation is a list of messages
    if is_empty:
        return "empty_source"
    if not all(target.strip() for target in text.targets):
        return "empty_target"
    # Compare tokens, not texts: different texts may have the same tokens.
    if len(set(example.targets)) < len(example.targets):
        return "chosen_equals_rejected"
    longest = max(len(target) for target in example.targets)
    if config.max_source_tokens is not None and len(example.source) > config.max_source_tokens:
        return "source_too_long"
    if config.max_target_tokens is not None and longest > config.max_target_tokens:
        return "target_too_long"
    limit = layout.max_positions
    return "too_long_for_model" if limit is not None and layout.longest(example) > limit else None
