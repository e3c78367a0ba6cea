"""The layout of encoder-decoder models; dimensions and contract as in `base`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtcpo.core.errors import UserError
from mtcpo.models.families import Family
from mtcpo.models.head.hooks import Head, add_model_losses
from mtcpo.models.head.targets import IGNORE, Objective, TargetPositions, TokenScores, locate_targets
from mtcpo.models.language_codes import language_code_source
from mtcpo.models.layouts.base import Batch, Example, pad_rows, router_option, target_rows
from mtcpo.models.layouts.encode_once import encode_once, look_up_once
from mtcpo.models.prompts import TextExample, fill_prompt
from mtcpo.models.tokenizers import language_token


@dataclass(slots=True)
class EncoderDecoderLayout:
    """T5 and its relatives, NLLB, M2M100, mBART, Marian: source to the encoder, targets to the decoder.

    prompt: template of the source. max_positions: the longest sequence that the model takes; None: any.
    """

    model: Any
    tokenizer: Any
    family: Family
    prompt: str
    max_positions: int | None

    def tokenization_key(self) -> list[str | int | None]:
        """Return layout, family with the code of its language tokens, template and limit."""
        code = language_code_source(self.family.language_code)
        return ["encoder-decoder", self.family.name, code, self.prompt, self.max_positions]

    def encode(self, texts: Sequence[TextExample]) -> list[Example]:
        """Tokenize sources and targets (as such), grouped by language pair.

        Raises:
            UserError: the tokenizer lacks a language; the message has the id of the first text in that language.
        """
        texts_by_pair: dict[tuple[str, str], list[int]] = {}
        for index, text in enumerate(texts):
            texts_by_pair.setdefault((text.src_lang, text.tgt_lang), []).append(index)
        examples: dict[int, Example] = {}
        for (src_lang, tgt_lang), indices in texts_by_pair.items():
            texts_of_pair = [texts[index] for index in indices]
            try:
                codes = self._language_codes(src_lang, tgt_lang)
            except UserError as error:
                first = texts_of_pair[0].id
                raise UserError(f"{first}: {error}" if first else str(error)) from error
            examples |= zip(indices, self._encode_pair(texts_of_pair, codes), strict=True)
        return [examples[index] for index in range(len(texts))]

    def _encode_pair(self, texts: Sequence[TextExample], codes: tuple[str, str]) -> list[Example]:
        """Tokenize texts of one language pair in one call for sources and one for targets."""
        sources = [self._source(text, codes) for text in texts]
        targets = [target for text in texts for target in text.targets]
        with self._languages(codes):
            source_ids = self.tokenizer(sources)["input_ids"]
            target_ids = iter(self.tokenizer(text_target=targets)["input_ids"] if targets else [])
        examples = []
        for text, ids in zip(texts, source_ids, strict=True):
            ids_of_targets = tuple(tuple(next(target_ids)) for _ in text.targets)
            examples.append(Example(tuple(ids), ids_of_targets))
        return examples

    def _source(self, text: TextExample, codes: tuple[str, str]) -> str:
        if text.prompt is None:
            return fill_prompt(self.prompt, text, codes)
        if isinstance(text.prompt, str):
            return text.prompt
        return "\n".join(message["content"] for message in text.prompt)

    def _language_codes(self, src_lang: str, tgt_lang: str) -> tuple[str, str]:
        """Return the codes of source and target language, for the tokenizer or the prompt."""
        if self.family.language_code is None:
            return src_lang, tgt_lang
        tokens = self.tokenizer.get_vocab()
        target = language_token(self.family, tgt_lang, tokens)
        if not self.family.target_code:
            # If the prompt has only the target's code (MADLAD, Marian), there are no source codes.
            return src_lang, target
        return language_token(self.family, src_lang, tokens), target

    @contextmanager
    def _languages(self, codes: tuple[str, str]) -> Iterator[None]:
        """Set the tokenizer's languages inside the block, and restore them: the tokenizer may be the user's."""
        if not self.family.target_code:
            yield  # the tokenizer has no languages
            return
        before = self.tokenizer.src_lang, self.tokenizer.tgt_lang
        self.tokenizer.src_lang, self.tokenizer.tgt_lang = (self._language_name(code) for code in codes)
        try:
            yield
        finally:
            self.tokenizer.src_lang, self.tokenizer.tgt_lang = before

    def _language_name(self, token: str) -> str:
        """Return the tokenizer's language code for a token: for M2M100, `de` for `__de__`."""
        return token.strip("_") if token.startswith("__") else token

    def lengths(self, example: Example) -> tuple[int, int]:
        """Return the lengths of the source and of the longest target."""
        return len(example.source), max((len(target) for target in example.targets), default=0)

    def longest(self, example: Example) -> int:
        """Return the length of the longest sequence."""
        return max(self.lengths(example))

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return input_ids and attention_mask (B, S), labels and decoder_input_ids (R, T), and target positions."""
        labels = pad_rows(target_rows(examples), IGNORE)
        inputs = self.decoder_input_ids(labels)
        target_positions = locate_targets(labels, _shared_positions(inputs, len(examples)), len(examples))
        targets = {"labels": labels, "decoder_input_ids": inputs}
        return self.generation_batch(examples) | targets | target_positions.as_batch()

    def count_tokens(self, batch: Batch) -> tuple[Tensor, int]:
        """Count each source once, plus its targets."""
        mask, labels = batch["attention_mask"], batch["labels"]
        return mask.sum() + (labels != IGNORE).sum(), mask.numel() + labels.numel()

    def _model_inputs(self, batch: Batch) -> tuple[dict[str, Any], int]:
        """Return the model's arguments, and how often each source is repeated in them, R / B."""
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
        # M2M100 and NLLB have no such method; their forward does the following.
        config = self.model.config
        shifted = labels.new_full(labels.shape, config.decoder_start_token_id)
        shifted[:, 1:] = labels[:, :-1]
        return shifted.masked_fill(shifted == IGNORE, config.pad_token_id)

    def score(
        self, model: nn.Module, head: Head, batch: Batch, objective: Objective | None = None,
        router_loss: bool | None = None,
    ) -> TokenScores:  # fmt: skip
        """Run the encoder once per source, the decoder once per target, and the head only at positions with labels."""
        inputs, copies = self._model_inputs(batch)
        inputs |= router_option(router_loss)
        encoder, decoder = self.model.get_encoder(), self.model.get_decoder()
        with (
            encode_once(encoder, len(batch["input_ids"]), copies),
            look_up_once(encoder, decoder, inputs["decoder_input_ids"]),
            head.scoring(batch["labels"], TargetPositions.from_batch(batch), objective) as scores,
        ):
            output = model(**inputs)
        return add_model_losses(scores[0], output)

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

    def generation_length(self, example: Example, max_new_tokens: int) -> int:
        """Return the length of the source, which has the encoder to itself."""
        return len(example.source)

    def generation_settings(self, tgt_lang: str) -> dict[str, Any]:
        """Return settings that force the target's language token, or start decoding from it, if the family has one."""
        if not self.family.target_code:
            return {}
        token = language_token(self.family, tgt_lang, self.tokenizer.get_vocab())
        return {f"{self.family.target_code}_token_id": self.tokenizer.convert_tokens_to_ids(token)}

    def new_tokens(self, sequences: Tensor, batch: Batch) -> Tensor:
        """Return the whole sequences: the decoder's output does not contain the source."""
        return sequences


def _shared_positions(inputs: Tensor, sources: int) -> Tensor:
    """Return the index, over all rows, of the state of each decoder input (R, T).

    Where a source's targets begin with the same tokens, it is the index in the first target's row: states and logits
    are equal there. (Except that without sharing, dropout masks would differ.)
    """
    positions = torch.arange(inputs.numel(), device=inputs.device).view(-1, sources, inputs.shape[1])
    rows = inputs.view(positions.shape)
    is_common_prefix = (rows == rows[:1]).cumprod(-1).bool()
    return torch.where(is_common_prefix, positions[:1], positions).view(inputs.shape)
