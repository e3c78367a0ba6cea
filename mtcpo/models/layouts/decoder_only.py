"""The layout of decoder-only models; dimensions and contract as in `base`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtcpo.core.errors import UserError
from mtcpo.models.head.hooks import Head, add_model_losses
from mtcpo.models.head.targets import IGNORE, Objective, TargetPositions, TokenScores, locate_targets
from mtcpo.models.layouts.base import Batch, Example, pad_rows, router_option, target_rows
from mtcpo.models.layouts.packing import Row, attention_window, pack, packed_length, packed_mask
from mtcpo.models.prompts import ALMA_PROMPT, CHAT_PROMPT, TextExample, fill_prompt


@dataclass(slots=True)
class DecoderOnlyLayout:
    """Llama, Qwen, Gemma, Mistral and the like: a prompt and its targets in one row; the prompt has no labels.

    prompt: template; None: the tokenizer's chat template, or ALMA's prompt if there is none.
    max_positions: the longest sequence that the model takes; None: any.
    packs: whether both targets may share a row; otherwise each has its own row, after the prompt.
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
        """Tokenize prompts as in generation, and targets as they follow the prompt, with the end token.

        Raises:
            UserError: a conversation, for a tokenizer without chat template.
        """
        text_end, answer_end = end_tokens(self.tokenizer)
        return [self._encode_text(text, answer_end if self._uses_chat(text) else text_end) for text in texts]

    def _encode_text(self, text: TextExample, end: int) -> Example:
        if self._uses_chat(text):
            # The chat template adds special tokens itself, and the separator between prompt and answer.
            prompt, joint, special = self._chat_prompt(text), "", False
        else:
            plain = text.prompt if isinstance(text.prompt, str) else None
            prompt = plain if plain is not None else fill_prompt(self.prompt or ALMA_PROMPT, text)
            joint, special = ("" if prompt[-1:].isspace() else " "), True
        source = tuple(self.tokenizer(prompt, add_special_tokens=special)["input_ids"])
        # Some tokenizers add the end token to every text; generation would then start after the end.
        source = source[:-1] if special and source[-1:] == (end,) else source
        targets = tuple((*self._target(prompt, source, joint, target, special), end) for target in text.targets)
        return Example(source, targets)

    def _target(self, prompt: str, source: tuple[int, ...], joint: str, target: str, special: bool) -> tuple[int, ...]:
        """Return the ids of a target after the prompt, whose ids must stay the same as in generation."""
        whole = tuple(self.tokenizer(prompt + joint + target, add_special_tokens=special)["input_ids"])
        whole = whole[:-1] if special and whole[-1:] == (self.tokenizer.eos_token_id,) else whole
        if whole[: len(source)] == source:
            return whole[len(source) :]
        # The prompt's last and the target's first token would merge, which cannot happen in generation.
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
        # Switch thinking off: the answer must be the translation, as in training.
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        return str(self.tokenizer.apply_chat_template(messages, **options))

    def _row(self, example: Example) -> Row | None:
        """Return the row to be packed, or None if each target must have its own row."""
        if not self.packs or len(example.targets) != 2:
            return None
        window = attention_window(self.model.config)
        if window is not None and self.longest(example) > window:
            return None
        return example.source, example.targets[0], example.targets[1]

    def lengths(self, example: Example) -> tuple[int, int]:
        """Return (length of the packed row, 0), or (0, length of prompt and longest target) if it is not packed."""
        row = self._row(example)
        return (0, self.longest(example)) if row is None else (packed_length(row), 0)

    def longest(self, example: Example) -> int:
        """Return the length of the prompt with the longest target."""
        return len(example.source) + max((len(target) for target in example.targets), default=0)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return packed pairs (see `pack`), or one row for each target if any pair cannot be packed.

        Rows are input_ids, attention_mask and labels, (R, P): position t predicts labels[:, t]. Both kinds of batch
        include `TargetPositions`.
        """
        rows = [self._row(example) for example in examples]
        packable = [row for row in rows if row is not None]
        batch = pack(packable, self._pad) if len(packable) == len(rows) else self._rows(examples)
        labels = batch["labels"]
        positions = batch.get("positions", torch.arange(labels.numel()).view(labels.shape))
        return batch | locate_targets(labels, positions, len(examples)).as_batch()

    def _rows(self, examples: Sequence[Example]) -> Batch:
        targets = target_rows(examples)
        sources = [example.source for example in examples] * (len(targets) // len(examples))
        input_ids, masks, labels = [], [], []
        for source, target in zip(sources, targets, strict=True):
            input_ids.append(source + target)
            masks.append([1] * len(input_ids[-1]))
            # The prompt's last token predicts the target's first; the end token predicts nothing.
            labels.append([IGNORE] * (len(source) - 1) + [*target, IGNORE])
        return {
            "input_ids": pad_rows(input_ids, self._pad),
            "attention_mask": pad_rows(masks, 0),
            "labels": pad_rows(labels, IGNORE),
        }

    def count_tokens(self, batch: Batch) -> tuple[Tensor, int]:
        """Count the tokens of rows, each of prompt and target, or of prompt and both targets."""
        real = batch["parts"] >= 0 if "parts" in batch else batch["attention_mask"]
        return real.sum(), real.numel()

    def _model_inputs(self, batch: Batch) -> dict[str, Any]:
        if "parts" in batch:
            inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
            return inputs | {"attention_mask": packed_mask(batch["parts"]), "use_cache": False}
        return {key: batch[key] for key in ("input_ids", "attention_mask")} | {"use_cache": False}

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def score(
        self, model: nn.Module, head: Head, batch: Batch, objective: Objective | None = None,
        router_loss: bool | None = None,
    ) -> TokenScores:  # fmt: skip
        """Run the decoder over prompts and targets, and the head on the positions of labels alone."""
        with head.scoring(batch["labels"], TargetPositions.from_batch(batch), objective) as scores:
            output = model(**self._model_inputs(batch), **router_option(router_loss))
        return add_model_losses(scores[0], output)

    def model_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of a plain forward pass, (R, T, V) or, not packed, (R, P, V)."""
        logits: Tensor = model(**self._model_inputs(batch)).logits
        return logits.flatten(0, 1)[batch["positions"]] if "positions" in batch else logits

    def generation_batch(self, examples: Sequence[Example]) -> Batch:
        """Return prompts, padded on the left so that all rows continue in the same column."""
        sources = [example.source for example in examples]
        return {
            "input_ids": pad_rows(sources, self._pad, left=True),
            "attention_mask": pad_rows([[1] * len(source) for source in sources], 0, left=True),
        }

    def generation_length(self, example: Example, max_new_tokens: int) -> int:
        """Return the length of the prompt with the longest possible translation."""
        return len(example.source) + max_new_tokens

    def generation_settings(self, tgt_lang: str) -> dict[str, Any]:
        """Return the padding token, which many of these models lack, and for chats the end tokens used in training."""
        settings: dict[str, Any] = {"pad_token_id": self._pad}
        if self.tokenizer.chat_template:
            configured = self.model.generation_config.eos_token_id
            ends = {*end_tokens(self.tokenizer), *(configured if isinstance(configured, list) else [configured])}
            settings["eos_token_id"] = sorted(ends - {None})
        if getattr(self.model.config, "output_router_logits", False):
            # The router loss is for training, and fails if tokens are generated one at a time.
            settings["output_router_logits"] = False
        return settings

    def new_tokens(self, sequences: Tensor, batch: Batch) -> Tensor:
        """Return the columns after the prompt."""
        return sequences[:, batch["input_ids"].shape[1] :]


def end_tokens(tokenizer: Any) -> tuple[int, int]:
    """Return the end tokens of texts and of chat answers, which differ for Gemma's template, for example."""
    end = int(tokenizer.eos_token_id)
    if not tokenizer.chat_template:
        return end, end
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    after_answer = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition("answer")[2].lstrip()
    ids = tokenizer(after_answer, add_special_tokens=False)["input_ids"]
    is_special = ids and tokenizer.convert_ids_to_tokens(ids[0]) in tokenizer.get_added_vocab()
    return end, int(ids[0]) if is_special else end
