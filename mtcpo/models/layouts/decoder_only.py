"""The layout of decoder-only models: dimensions and contract as in `contract`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtcpo.core.errors import UserError
from mtcpo.models.head.hooks import Head, add_model_losses
from mtcpo.models.head.targets import IGNORE, Objective, TargetPositions, TokenScores, locate_targets
from mtcpo.models.layouts.base import Batch, Example, pad_rows, router_option
from mtcpo.models.layouts.packing import Row, attention_window, pack, packed_length, packed_mask
from mtcpo.models.prompts import ALMA_PROMPT, CHAT_PROMPT, TextExample, fill_prompt


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

    def tokenization_key(self) -> list[str | int | None]:
        """Return layout, template and limit."""
        return ["decoder-only", self.prompt, self.max_positions]

    def encode(self, texts: Sequence[TextExample]) -> list[Example]:
        """Tokenize prompts as generation sees them, and targets as they follow the prompt, with the end token."""
        ends = end_tokens(self.tokenizer)
        return [self._encode_one(text, ends[self._uses_chat(text)]) for text in texts]

    def _encode_one(self, text: TextExample, end: int) -> Example:
        if self._uses_chat(text):
            prompt, joint, special = self._chat_prompt(text), "", False
        else:
            plain = text.prompt if isinstance(text.prompt, str) else None
            prompt = plain if plain is not None else fill_prompt(self.prompt or ALMA_PROMPT, text)
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

    def _uses_chat(self, text: TextExample) -> bool:
        if text.prompt is not None:
            return not isinstance(text.prompt, str)
        return self.prompt is None and bool(self.tokenizer.chat_template)

    def _chat_prompt(self, text: TextExample) -> str:
        if not self.tokenizer.chat_template:
            raise UserError("the preference set has conversations, but the tokenizer has no chat template")
        if text.prompt is not None and not isinstance(text.prompt, str):
            messages = [dict(message) for message in text.prompt]
        else:
            messages = [{"role": "user", "content": fill_prompt(CHAT_PROMPT, text)}]
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
        """Return packed pairs (see `pack`), or where one of them cannot be, one row for each target; and places.

        Those are input_ids (R, P), attention_mask (R, P), labels (R, P): position t predicts labels[:, t].
        """
        packed = [row for row in map(self._row, examples) if row is not None]
        batch = pack(packed, self._pad) if len(packed) == len(examples) else self._rows(examples)
        labels = batch["labels"]
        positions = batch.get("positions", torch.arange(labels.numel()).view(labels.shape))
        return batch | locate_targets(labels, positions, len(examples)).as_batch()

    def _rows(self, examples: Sequence[Example]) -> Batch:
        rows = [(example.source, example.targets[i]) for i in range(len(examples[0].targets)) for example in examples]
        return {
            "input_ids": pad_rows([source + target for source, target in rows], self._pad),
            "attention_mask": pad_rows([[1] * (len(source) + len(target)) for source, target in rows], 0),
            "labels": pad_rows([[IGNORE] * (len(source) - 1) + [*target, IGNORE] for source, target in rows], IGNORE),
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
    ) -> TokenScores:  # fmt: skip
        """Run the decoder over prompts and targets, and the head on target positions."""
        with head.scoring(batch["labels"], TargetPositions.from_batch(batch), objective) as scored:
            output = model(**self._model_inputs(batch), **router_option(router_loss))
        return add_model_losses(scored[0], output)

    def model_logits(self, model: nn.Module, batch: Batch) -> Tensor:
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
