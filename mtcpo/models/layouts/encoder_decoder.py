"""The layout of encoder-decoder models: dimensions and contract as in `contract`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtcpo.core.errors import UserError
from mtcpo.models.families import Family, language_code_source, language_token
from mtcpo.models.head.hooks import Head, add_model_losses
from mtcpo.models.head.targets import IGNORE, Objective, TargetPositions, TokenScores, locate_targets
from mtcpo.models.layouts.base import Batch, Example, pad_rows, router_option
from mtcpo.models.layouts.encode_once import encode_once, look_up_once
from mtcpo.models.prompts import TextExample, fill_prompt


@dataclass(slots=True)
class EncoderDecoderLayout:
    """T5 and its kin, NLLB, M2M100, mBART, Marian: source to the encoder, targets to the decoder."""

    model: Any
    tokenizer: Any
    family: Family
    prompt: str
    max_positions: int | None

    def tokenization_key(self) -> list[str | int | None]:
        """Return layout, family with the code of its language tokens, template and limit."""
        code = language_code_source(self.family)
        return ["encoder-decoder", self.family.name, code, self.prompt, self.max_positions]

    def encode(self, texts: Sequence[TextExample]) -> list[Example]:
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

    def _source(self, text: TextExample, codes: tuple[str, str]) -> str:
        if text.prompt is None:
            return fill_prompt(self.prompt, text, codes)
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
        """Return input_ids (B, S), attention_mask (B, S), labels and decoder_input_ids (R, T), and places."""
        labels = pad_rows(_target_rows(examples), IGNORE)
        inputs = self.decoder_input_ids(labels)
        target_positions = locate_targets(labels, _shared_positions(inputs, len(examples)), len(examples))
        targets = {"labels": labels, "decoder_input_ids": inputs}
        return self.generation_batch(examples) | targets | target_positions.as_batch()

    def count_tokens(self, batch: Batch) -> tuple[Tensor, int]:
        """Count sources once, beside the targets."""
        mask, labels = batch["attention_mask"], batch["labels"]
        return mask.sum() + (labels != IGNORE).sum(), mask.numel() + labels.numel()

    def _model_inputs(self, batch: Batch) -> tuple[dict[str, Any], int]:
        copies = len(batch["labels"]) // len(batch["input_ids"])
        return {
            "input_ids": batch["input_ids"].repeat(copies, 1),
            "attention_mask": batch["attention_mask"].repeat(copies, 1),
            "decoder_input_ids": batch["decoder_input_ids"],
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
    ) -> TokenScores:  # fmt: skip
        """Run encoder once a source, decoder once a target, and the head on real target positions."""
        inputs, copies = self._model_inputs(batch)
        inputs |= router_option(router_loss)
        encoder, decoder = self.model.get_encoder(), self.model.get_decoder()
        with (
            encode_once(encoder, len(batch["input_ids"]), copies),
            look_up_once(encoder, decoder, inputs["decoder_input_ids"]),
            head.scoring(batch["labels"], TargetPositions.from_batch(batch), objective) as scored,
        ):
            output = model(**inputs)
        return add_model_losses(scored[0], output)

    def model_logits(self, model: nn.Module, batch: Batch) -> Tensor:
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
