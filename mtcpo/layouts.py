"""From text to aligned decoder states: the two layouts, encoder-decoder and decoder-only.

Dimensions: B pairs, R rows (B for one target a source, 2B for pairs), S source tokens, T target tokens.

Contract, whatever the layout: one forward pass gives `token_logps` (R, T), whose position [i, t] is the
log-probability of labels[i, t]; labels equal to IGNORE (-100) do not count; chosen rows first, rejected rows second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mtcpo.errors import UserError
from mtcpo.families import ALMA_PROMPT, CHAT_PROMPT, Family, language_token
from mtcpo.languages import UNDETERMINED, english_name
from mtcpo.logprobs import Head
from mtcpo.onepass import encode_once, look_up_once
from mtcpo.packing import Row, attention_window, can_pack, pack, packed_length, packed_mask
from mtcpo.records import Messages
from mtcpo.scored import IGNORE, Objective, Scored

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Text:
    """What is given to a layout: a source (or a ready prompt) with its targets. id: for messages."""

    source: str
    src_lang: str
    tgt_lang: str
    targets: tuple[str, ...] = ()
    prompt: str | Messages | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one source and its targets (chosen, then rejected), each target with its end token."""

    source: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Return how many real tokens the example has."""
        return len(self.source) + sum(len(target) for target in self.targets)


class Layout(Protocol):
    """The interface of both layouts; after `layout_for`, no code asks which one it has."""

    tokenizer: Any
    max_positions: int | None

    def identity(self) -> list[str | int | None]:
        """Return what decides, beside the tokenizer, which tokens a text becomes and whether they are too many."""
        ...

    def encode(self, texts: Sequence[Text]) -> list[Example]:
        """Tokenize; an example without targets is for generation."""
        ...

    def lengths(self, example: Example) -> tuple[int, int]:
        """Return how many positions of a batch the example takes: once, and again for each of its targets."""
        ...

    def longest(self, example: Example) -> int:
        """Return the most positions that the model is to tell apart for the example."""
        ...

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad examples into one batch, chosen rows first."""
        ...

    def count_tokens(self, batch: Batch) -> tuple[Tensor, int]:
        """Return how many real tokens a batch has, on its device, and how many positions with padding."""
        ...

    def score(
        self, model: nn.Module, head: Head, batch: Batch, objective: Objective | None = None,
        router_loss: bool | None = None,
    ) -> Scored:  # fmt: skip
        """Run the model's own forward pass, its head tapped.

        Args:
            model: as wrapped for training.
            head: its head.
            batch: what `collate` made.
            objective: the loss to compute with its gradients; log-probabilities alone have none.
            router_loss: of a mixture of experts; None: as the model's config says.
        """
        ...

    def own_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the model's own logits (R, T, V), aligned with the labels of `score`, for comparison."""
        ...

    def generation_batch(self, examples: Sequence[Example]) -> Batch:
        """Return what `generate` needs for the sources of examples."""
        ...

    def generation_settings(self, tgt_lang: str) -> dict[str, Any]:
        """Return the settings of `generate` that the target language decides."""
        ...

    def new_tokens(self, sequences: Tensor, batch: Batch) -> Tensor:
        """Return the part of what `generate` returned that is translation."""
        ...


def pad_rows(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Pad to a (R, longest) int64 tensor with `value`, on the right or on the left."""
    width = max(len(row) for row in rows)
    fill = [[value] * (width - len(row)) for row in rows]
    return torch.tensor([[*pad, *row] if left else [*row, *pad] for row, pad in zip(rows, fill, strict=True)])


def _target_rows(examples: Sequence[Example]) -> list[tuple[int, ...]]:
    """Return all first targets, then all second ones."""
    return [example.targets[i] for i in range(len(examples[0].targets)) for example in examples]


def _shared_positions(inputs: Tensor, sources: int) -> Tensor:
    """Return where the states of decoder inputs (R, T) are: for the tokens with which targets of a source begin alike,
    in the row of the first target.

    The states are equal there, and so are the logits. (With dropout they would not be: such tokens share one mask.)
    """
    positions = torch.arange(inputs.numel(), device=inputs.device).view(-1, sources, inputs.shape[1])
    rows = inputs.view(positions.shape)
    alike = (rows == rows[:1]).cumprod(-1).bool()
    return torch.where(alike, positions[:1], positions).view(inputs.shape)


def _prompt_text(template: str, text: Text, codes: tuple[str, str] | None = None) -> str:
    """Fill a template; `codes` are what source and target language are called in it, by default their BCP-47 tags."""
    codes = codes or (text.src_lang, text.tgt_lang)
    names = {}
    if "_name}" in template:
        if UNDETERMINED in (text.src_lang, text.tgt_lang):
            raise UserError(f"the template {template!r} names its languages; give --src-lang and --tgt-lang")
        names = {"src_name": english_name(text.src_lang), "tgt_name": english_name(text.tgt_lang)}
    # Not str.format on the source: braces in a sentence are text.
    fields = {**names, "src_code": codes[0], "tgt_code": codes[1], "source": text.source}
    parts = [template]
    for field, value in fields.items():
        parts = [piece for part in parts for piece in _split_keeping(part, "{" + field + "}", value)]
    return "".join(parts)


class _Filled(str):
    """A filled-in value: no further field is looked for inside it."""


def _split_keeping(part: str, field: str, value: str) -> Iterator[str]:
    if isinstance(part, _Filled) or field not in part:
        yield part
        return
    pieces = part.split(field)
    for i, piece in enumerate(pieces):
        if i:
            yield _Filled(value)
        yield piece


@dataclass(slots=True)
class EncoderDecoderLayout:
    """T5 and its kin, NLLB, M2M100, mBART, Marian: source to the encoder, targets to the decoder."""

    model: Any
    tokenizer: Any
    family: Family
    prompt: str
    max_positions: int | None

    def identity(self) -> list[str | int | None]:
        """Return layout, family, template and limit."""
        return ["encoder-decoder", self.family.name, self.prompt, self.max_positions]

    def encode(self, texts: Sequence[Text]) -> list[Example]:
        """Tokenize sources as sources and targets as targets, each language pair in one call."""
        examples: list[Example | None] = [None] * len(texts)
        pairs: dict[tuple[str, str], list[int]] = {}
        for i, text in enumerate(texts):
            pairs.setdefault((text.src_lang, text.tgt_lang), []).append(i)
        for (src_lang, tgt_lang), rows in pairs.items():
            try:
                codes = self._set_languages(src_lang, tgt_lang)
            except UserError as error:
                first = texts[rows[0]].id
                raise UserError(f"{first}: {error}" if first else str(error)) from error
            sources = self.tokenizer([self._source(texts[i], codes) for i in rows])["input_ids"]
            flat = [target for i in rows for target in texts[i].targets]
            targets = iter(self.tokenizer(text_target=flat)["input_ids"] if flat else [])
            for i, source in zip(rows, sources, strict=True):
                examples[i] = Example(tuple(source), tuple(tuple(next(targets)) for _ in texts[i].targets))
        return [example for example in examples if example is not None]

    def _source(self, text: Text, codes: tuple[str, str]) -> str:
        if text.prompt is None:
            return _prompt_text(self.prompt, text, codes)
        if isinstance(text.prompt, str):
            return text.prompt
        return "\n".join(message["content"] for message in text.prompt)

    def _set_languages(self, src_lang: str, tgt_lang: str) -> tuple[str, str]:
        if self.family.language_code is None:
            return src_lang, tgt_lang
        tokens = self.tokenizer.get_vocab()
        target = language_token(self.family, tgt_lang, tokens)
        if not self.family.target_code:
            # A prompt that carries only the target's code (MADLAD, Marian) knows no source codes.
            return src_lang, target
        source = language_token(self.family, src_lang, tokens)
        self.tokenizer.src_lang, self.tokenizer.tgt_lang = self._tag(source), self._tag(target)
        return source, target

    def _tag(self, token: str) -> str:
        """Return the name that the tokenizer has for a language token: M2M100 writes `__de__` for `de`."""
        return token.strip("_") if token.startswith("__") else token

    def lengths(self, example: Example) -> tuple[int, int]:
        """Return the lengths of the source and of the longest target."""
        return len(example.source), max((len(target) for target in example.targets), default=0)

    def longest(self, example: Example) -> int:
        """Return the length of the longest sequence."""
        return max(self.lengths(example))

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return input_ids (B, S), attention_mask (B, S), labels (R, T)."""
        return self.generation_batch(examples) | {"labels": pad_rows(_target_rows(examples), IGNORE)}

    def count_tokens(self, batch: Batch) -> tuple[Tensor, int]:
        """Count sources once, beside the targets."""
        mask, labels = batch["attention_mask"], batch["labels"]
        return mask.sum() + (labels != IGNORE).sum(), mask.numel() + labels.numel()

    def _model_inputs(self, batch: Batch) -> tuple[dict[str, Any], int]:
        copies = len(batch["labels"]) // len(batch["input_ids"])
        return {
            "input_ids": batch["input_ids"].repeat(copies, 1),
            "attention_mask": batch["attention_mask"].repeat(copies, 1),
            "decoder_input_ids": self.decoder_input_ids(batch["labels"]),
            "use_cache": False,
        }, copies

    def decoder_input_ids(self, labels: Tensor) -> Tensor:
        """Shift labels (R, T) right, as the model itself does."""
        prepare = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if prepare is not None:
            return torch.as_tensor(prepare(labels=labels))
        # M2M100 and NLLB have no such method; their forward does this.
        config = self.model.config
        shifted = labels.new_full(labels.shape, config.decoder_start_token_id)
        shifted[:, 1:] = labels[:, :-1]
        return shifted.masked_fill(shifted == IGNORE, config.pad_token_id)

    def score(
        self, model: nn.Module, head: Head, batch: Batch, objective: Objective | None = None,
        router_loss: bool | None = None,
    ) -> Scored:  # fmt: skip
        """Run encoder once a source, decoder once a target, and the head on real target positions."""
        inputs, copies = self._model_inputs(batch)
        inputs |= _router_option(router_loss)
        sources, labels = len(batch["input_ids"]), batch["labels"]
        targets = inputs["decoder_input_ids"]
        positions = _shared_positions(targets, sources)
        encoder, decoder = self.model.get_encoder(), self.model.get_decoder()
        with (
            encode_once(encoder, sources, copies),
            look_up_once(encoder, decoder, targets),
            head.scoring(labels, sources, positions, objective) as scored,
        ):
            output = model(**inputs)
        return replace(scored[0], router_loss=getattr(output, "aux_loss", None))

    def own_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of a plain forward pass, (R, T, V)."""
        logits: Tensor = model(**self._model_inputs(batch)[0]).logits
        return logits

    def generation_batch(self, examples: Sequence[Example]) -> Batch:
        """Return input_ids and attention_mask, (B, S)."""
        sources = [example.source for example in examples]
        return {
            "input_ids": pad_rows(sources, self.tokenizer.pad_token_id),
            "attention_mask": pad_rows([[1] * len(source) for source in sources], 0),
        }

    def generation_settings(self, tgt_lang: str) -> dict[str, Any]:
        """Force the target's language token, or start from it, where the family has one."""
        if not self.family.target_code:
            return {}
        token = language_token(self.family, tgt_lang, self.tokenizer.get_vocab())
        return {f"{self.family.target_code}_token_id": self.tokenizer.convert_tokens_to_ids(token)}

    def new_tokens(self, sequences: Tensor, batch: Batch) -> Tensor:
        """Return all of it: the decoder starts with no source in it."""
        return sequences


@dataclass(slots=True)
class DecoderOnlyLayout:
    """Llama, Qwen, Gemma, Mistral and their like: a prompt and its targets in one row, the prompt without labels.

    packs: both targets may be in that row; else each is in one of its own, the prompt before it.
    """

    model: Any
    tokenizer: Any
    prompt: str | None
    max_positions: int | None
    packs: bool

    def identity(self) -> list[str | int | None]:
        """Return layout, template and limit."""
        return ["decoder-only", self.prompt, self.max_positions]

    def encode(self, texts: Sequence[Text]) -> list[Example]:
        """Tokenize prompts as generation sees them, and targets as they follow the prompt, with the end token."""
        ends = end_tokens(self.tokenizer)
        return [self._encode_one(text, ends[self._uses_chat(text)]) for text in texts]

    def _encode_one(self, text: Text, end: int) -> Example:
        if self._uses_chat(text):
            prompt, joint, special = self._chat_prompt(text), "", False
        else:
            plain = text.prompt if isinstance(text.prompt, str) else None
            prompt = plain if plain is not None else _prompt_text(self.prompt or ALMA_PROMPT, text)
            joint, special = ("" if prompt[-1:].isspace() else " "), True
        source = tuple(self.tokenizer(prompt, add_special_tokens=special)["input_ids"])
        # Some tokenizers close every text with the end token; generation would then start after the end.
        source = source[:-1] if special and source[-1:] == (end,) else source
        targets = tuple((*self._target(prompt, source, joint, target, special), end) for target in text.targets)
        return Example(source, targets)

    def _target(self, prompt: str, source: tuple[int, ...], joint: str, target: str, special: bool) -> tuple[int, ...]:
        """Return the ids that follow the prompt's; the prompt's own stay what generation is given."""
        whole = tuple(self.tokenizer(prompt + joint + target, add_special_tokens=special)["input_ids"])
        whole = whole[:-1] if special and whole[-1:] == (self.tokenizer.eos_token_id,) else whole
        if whole[: len(source)] == source:
            return whole[len(source) :]
        # The last token of the prompt and the first of the target would merge: generation cannot do that.
        return tuple(self.tokenizer(joint + target, add_special_tokens=False)["input_ids"])

    def _uses_chat(self, text: Text) -> bool:
        if text.prompt is not None:
            return not isinstance(text.prompt, str)
        return self.prompt is None and bool(self.tokenizer.chat_template)

    def _chat_prompt(self, text: Text) -> str:
        if not self.tokenizer.chat_template:
            raise UserError("the preference set has conversations, but the tokenizer has no chat template")
        if text.prompt is not None and not isinstance(text.prompt, str):
            messages = [dict(message) for message in text.prompt]
        else:
            messages = [{"role": "user", "content": _prompt_text(CHAT_PROMPT, text)}]
        # A model that can think aloud first is told not to: its answer is the translation, as in training.
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        return str(self.tokenizer.apply_chat_template(messages, **options))

    def _row(self, example: Example) -> Row | None:
        """Return what is packed of a pair; None where it takes a row for each target."""
        if not self.packs or len(example.targets) != 2:
            return None
        window = attention_window(self.model.config)
        if window is not None and self.longest(example) > window:
            return None
        return example.source, example.targets[0], example.targets[1]

    def lengths(self, example: Example) -> tuple[int, int]:
        """Return the length of the packed row and 0, or 0 and that of prompt and longest target."""
        row = self._row(example)
        return (0, self.longest(example)) if row is None else (packed_length(row), 0)

    def longest(self, example: Example) -> int:
        """Return the length of prompt and longest target together."""
        return len(example.source) + max((len(target) for target in example.targets), default=0)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return packed pairs (see `pack`), or where one of them cannot be, one row for each target.

        Those are input_ids (R, P), attention_mask (R, P), labels (R, P): position t predicts labels[:, t]; and the
        prompt_lengths (B,).
        """
        packed = [row for row in map(self._row, examples) if row is not None]
        if len(packed) == len(examples):
            return pack(packed, self._pad)
        rows = [(example.source, example.targets[i]) for i in range(len(examples[0].targets)) for example in examples]
        return {
            "input_ids": pad_rows([source + target for source, target in rows], self._pad),
            "attention_mask": pad_rows([[1] * (len(source) + len(target)) for source, target in rows], 0),
            "labels": pad_rows([[IGNORE] * (len(source) - 1) + [*target, IGNORE] for source, target in rows], IGNORE),
            "prompt_lengths": torch.tensor([len(example.source) for example in examples]),
        }

    def count_tokens(self, batch: Batch) -> tuple[Tensor, int]:
        """Count rows, which hold prompt and target, or both targets."""
        real = batch["parts"] >= 0 if "parts" in batch else batch["attention_mask"]
        return real.sum(), real.numel()

    def _model_inputs(self, batch: Batch) -> dict[str, Any]:
        if "parts" in batch:
            given = {key: batch[key] for key in ("input_ids", "position_ids")}
            return given | {"attention_mask": packed_mask(batch["parts"]), "use_cache": False}
        return {key: batch[key] for key in ("input_ids", "attention_mask")} | {"use_cache": False}

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def score(
        self, model: nn.Module, head: Head, batch: Batch, objective: Objective | None = None,
        router_loss: bool | None = None,
    ) -> Scored:  # fmt: skip
        """Run the decoder over prompts and targets, and the head on target positions."""
        positions = batch.get("positions")
        sources = len(batch["prompt_lengths" if positions is None else "input_ids"])
        with head.scoring(batch["labels"], sources, positions, objective) as scored:
            output = model(**self._model_inputs(batch), **_router_option(router_loss))
        return replace(scored[0], router_loss=getattr(output, "aux_loss", None))

    def own_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of a plain forward pass, (R, T, V) or, not packed, (R, P, V)."""
        logits: Tensor = model(**self._model_inputs(batch)).logits
        return logits.flatten(0, 1)[batch["positions"]] if "positions" in batch else logits

    def generation_batch(self, examples: Sequence[Example]) -> Batch:
        """Return prompts padded on the left, so that all rows continue from the same column."""
        sources = [example.source for example in examples]
        return {
            "input_ids": pad_rows(sources, self._pad, left=True),
            "attention_mask": pad_rows([[1] * len(source) for source in sources], 0, left=True),
        }

    def generation_settings(self, tgt_lang: str) -> dict[str, Any]:
        """Name the padding token, for many such models have none, and in chats the end token that training has."""
        settings: dict[str, Any] = {"pad_token_id": self._pad}
        if self.tokenizer.chat_template:
            known = self.model.generation_config.eos_token_id
            ends = {*end_tokens(self.tokenizer), *(known if isinstance(known, list) else [known])}
            settings["eos_token_id"] = sorted(ends - {None})
        if getattr(self.model.config, "output_router_logits", False):
            settings["output_router_logits"] = False  # a loss of training, which fails on one token at a time
        return settings

    def new_tokens(self, sequences: Tensor, batch: Batch) -> Tensor:
        """Cut off the prompt."""
        return sequences[:, batch["input_ids"].shape[1] :]


def end_tokens(tokenizer: Any) -> tuple[int, int]:
    """Return the end tokens of texts and of answers in chats, which the template may close by another: Gemma does."""
    end = int(tokenizer.eos_token_id)
    if not tokenizer.chat_template:
        return end, end
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    rest = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition("answer")[2].lstrip()
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
    closes = ids and tokenizer.convert_ids_to_tokens(ids[0]) in tokenizer.get_added_vocab()
    return end, int(ids[0]) if closes else end


def _router_option(router_loss: bool | None) -> dict[str, bool]:
    """Return the argument of a mixture of experts that asks for its router loss; other models do not know it."""
    return {} if router_loss is None else {"output_router_logits": router_loss}


def max_positions_of(config: Any) -> int | None:
    """Return the longest sequence a model with absolute or bounded positions can take; None for relative ones (T5)."""
    for name in ("max_position_embeddings", "max_target_positions", "n_positions"):
        limit = getattr(config, name, None)
        # T5 keeps n_positions = 512 from its pre-training; its relative positions have no bound.
        if isinstance(limit, int) and not hasattr(config, "relative_attention_num_buckets"):
            return limit
    return None


def layout_for(model: Any, tokenizer: Any, family: Family, prompt: str | None) -> Layout:
    """Return the layout of a loaded model; `prompt` replaces the family's template."""
    limit = max_positions_of(model.config)
    if family.layout == "decoder-only":
        return DecoderOnlyLayout(model, tokenizer, prompt, limit, can_pack(model))
    return EncoderDecoderLayout(model, tokenizer, family, prompt or family.prompt or "{source}", limit)
