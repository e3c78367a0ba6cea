"""Beam search and greedy search of encoder-decoder models that drop from the batch what is finished.

The searches are those of transformers' `generate`, step by step: the same scores, length penalty and criterion to stop
(with `early_stopping`). `generate` prepares them, down to the logits processors, and calls them as `custom_generate`.
But `generate` computes every row until the last of its batch is finished, which for captions is half of the work.

Dimensions: B sources that are not finished, K beams, R = B * K rows (the beams of a source are adjacent), T tokens so
far, start token included, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from mtcpo.translation.engines.logits import RowProcessor

IMPOSSIBLE = -1.0e9
"""The score of what cannot be chosen, as in transformers."""


def drops_sources(model: Any) -> bool:
    """Whether these searches suit a model: an encoder-decoder, and no logits processor has rows of its sources."""
    config = model.generation_config
    penalties = (config.encoder_repetition_penalty or 1.0, config.encoder_no_repeat_ngram_size or 0)
    return bool(model.config.is_encoder_decoder) and penalties == (1.0, 0)


def beam_search(
    model: nn.Module,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs: Any,
) -> Tensor:
    """Return the best translations, (all sources * num_return_sequences, longest), padded on the right.

    The arguments are those that `generate` gives to `custom_generate`; input_ids: start tokens (R, 1).
    """
    decoder = _Decoder.of(model, model_kwargs)
    beams = _Beams.of(input_ids.view(-1, generation_config.num_beams, input_ids.shape[1]), generation_config)
    finished: dict[int, Tensor] = {}
    sources = torch.arange(len(beams.tokens), device=input_ids.device)
    while len(sources):
        rows = beams.tokens.flatten(0, 1)
        log_probs = torch.log_softmax(decoder.logits(rows[:, -1:]).float(), dim=-1)
        chosen = beams.extend(logits_processor(rows, log_probs), stopping_criteria)
        is_open = beams.can_improve()
        for index in (~is_open).nonzero().flatten().tolist():
            finished[int(sources[index])] = beams.ended[index, : generation_config.num_return_sequences]
        # The cache must follow the beams: row -> the row that its beam continues.
        first_rows = torch.arange(len(sources), device=rows.device)[:, None] * generation_config.num_beams
        kept_rows = (first_rows + chosen)[is_open].flatten()
        if not is_open.all():
            beams.keep(is_open)
            sources = sources[is_open]
        decoder.keep(kept_rows, beams_only=len(kept_rows) == len(rows))
    ordered = [finished[source] for source in range(len(finished))]
    width = max(each.shape[-1] for each in ordered)
    return torch.cat([_padded(each, width, beams.padding) for each in ordered])


def greedy_search(
    model: nn.Module,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs: Any,
) -> Tensor:
    """Return the translations (all rows, longest), padded on the right; arguments as of `beam_search`."""
    decoder = _Decoder.of(model, model_kwargs)
    tokens, numbers = input_ids, torch.arange(len(input_ids), device=input_ids.device)
    finished: dict[int, Tensor] = {}
    while len(numbers):
        scores = logits_processor(tokens, decoder.logits(tokens[:, -1:]).float())
        tokens = torch.cat([tokens, scores.argmax(dim=-1, keepdim=True)], dim=1)
        is_finished = stopping_criteria(tokens, scores)
        for row in is_finished.nonzero().flatten().tolist():
            finished[int(numbers[row])] = tokens[row, None]
        if is_finished.any():
            kept = (~is_finished).nonzero().flatten()
            tokens, numbers = tokens[kept], numbers[kept]
            decoder.keep(kept, beams_only=False)
            for processor in logits_processor:
                if isinstance(processor, RowProcessor):
                    processor.keep(kept)
    width = max(row.shape[-1] for row in finished.values())
    rows = [_padded(finished[number], width, generation_config.pad_token_id) for number in range(len(finished))]
    return torch.cat(rows)


@dataclass(slots=True)
class _Decoder:
    """The model's decoder with its cache. All tensors have the rows of the batch."""

    model: nn.Module
    cache: dict[str, Any]
    """The cache, by the name under which this version of transformers takes it."""
    encoder_states: Tensor
    attention_mask: Tensor

    @classmethod
    def of(cls, model: nn.Module, model_kwargs: dict[str, Any]) -> _Decoder:
        cache: dict[str, Any] = {}
        # transformers 5 renames it.
        for name in model_kwargs.keys() & {"past_key_values", "cache"}:
            cache[name] = model_kwargs[name]
        return cls(model, cache, model_kwargs["encoder_outputs"].last_hidden_state, model_kwargs["attention_mask"])

    def logits(self, last_tokens: Tensor) -> Tensor:
        """Return the logits (R, V) after the tokens so far, of which the cache has all but the last, (R, 1)."""
        outputs = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.encoder_states),
            attention_mask=self.attention_mask,
            decoder_input_ids=last_tokens,
            use_cache=True,
            return_dict=True,
            **self.cache,
        )
        logits: Tensor = outputs.logits[:, -1]
        return logits

    def keep(self, rows: Tensor, beams_only: bool) -> None:
        """Let row i continue what row rows[i] was. beams_only: no source is dropped."""
        for cache in self.cache.values():
            cache.self_attention_cache.reorder_cache(rows)
            if not beams_only:
                cache.cross_attention_cache.reorder_cache(rows)
        if not beams_only:
            # The beams of a source have the same encoder states: they change only when a source is dropped.
            self.encoder_states, self.attention_mask = self.encoder_states[rows], self.attention_mask[rows]


@dataclass(slots=True)
class _Beams:
    """Running beams, and the best that have ended: tokens (B, K, T) and scores (B, K) of both.

    Scores of running beams are summed log-probabilities; those of ended ones are divided by length ** length_penalty.
    """

    config: GenerationConfig
    tokens: Tensor
    scores: Tensor
    ended: Tensor
    ended_scores: Tensor
    has_ended: Tensor
    start: int
    """Tokens before the first generated one."""
    padding: int
    ends: int
    """How many end tokens the model has."""

    @classmethod
    def of(cls, tokens: Tensor, config: GenerationConfig) -> _Beams:
        shape = tokens.shape[:2]
        scores = torch.zeros(shape, device=tokens.device)
        # All beams are the same at first: only one may be extended.
        scores[:, 1:] = IMPOSSIBLE
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        return cls(
            config, tokens, scores, tokens, torch.full_like(scores, IMPOSSIBLE),
            torch.zeros(shape, dtype=torch.bool, device=tokens.device), tokens.shape[2], config.pad_token_id, len(ends),
        )  # fmt: skip

    def extend(self, log_probs: Tensor, stopping_criteria: StoppingCriteriaList) -> Tensor:
        """Extend the beams by one token; return (B, K), for each beam the number of the one that it continues.

        log_probs: of the next token, (R, V).
        """
        sources, beams, vocabulary = len(self.tokens), self.config.num_beams, log_probs.shape[-1]
        totals = log_probs.view(sources, beams, vocabulary) + self.scores[:, :, None]
        # So many that enough remain if all others end.
        scores, indices = torch.topk(totals.view(sources, -1), max(2, 1 + self.ends) * beams)
        parents, new_tokens = indices // vocabulary, indices % vocabulary
        extended = torch.cat([_gathered(self.tokens, parents), new_tokens[:, :, None]], dim=-1)
        stops = stopping_criteria(extended.flatten(0, 1), None).view(sources, -1)
        self._add_ended(extended, scores, stops)
        scores = scores + stops * IMPOSSIBLE
        running = torch.topk(scores, beams)[1]
        self.tokens, self.scores = _gathered(extended, running), scores.gather(1, running)
        return parents.gather(1, running)

    def _add_ended(self, extended: Tensor, scores: Tensor, stops: Tensor) -> None:
        """Keep the best K of the beams that ended before and those that end now."""
        beams = self.config.num_beams
        ends_now = stops.clone()
        # The others were extended only to have K beams that do not end.
        ends_now[:, beams:] = False
        ended_scores = scores / (extended.shape[-1] - self.start) ** self.config.length_penalty
        ended_scores = ended_scores + ~ends_now * IMPOSSIBLE
        padded = _padded(self.ended, extended.shape[-1], self.padding)
        self.ended_scores, best = torch.topk(torch.cat([self.ended_scores, ended_scores], dim=1), beams)
        self.ended = _gathered(torch.cat([padded, extended], dim=1), best)
        self.has_ended = torch.cat([self.has_ended, ends_now], dim=1).gather(1, best)

    def can_improve(self) -> Tensor:
        """Return for each source (B,) whether a running beam may still become better than those that have ended."""
        length = self.tokens.shape[-1]
        if length >= self.config.max_length:
            return torch.zeros(len(self.tokens), dtype=torch.bool, device=self.tokens.device)
        if self.config.early_stopping is True:
            return ~self.has_ended.all(dim=1)
        penalty = self.config.length_penalty
        if self.config.early_stopping == "never" and penalty > 0:
            length = self.config.max_length
        best = self.scores[:, 0] / (length - self.start) ** penalty
        worst = self.ended_scores.amin(dim=1)
        is_open: Tensor = ~self.has_ended.all(dim=1) | (best > worst)
        return is_open

    def keep(self, sources: Tensor) -> None:
        """Drop all sources but those in a mask (B,)."""
        self.tokens, self.scores = self.tokens[sources], self.scores[sources]
        self.ended, self.ended_scores = self.ended[sources], self.ended_scores[sources]
        self.has_ended = self.has_ended[sources]


def _gathered(tokens: Tensor, beams: Tensor) -> Tensor:
    """Return the tokens (B, N, T) of beams (B, N), of tokens (B, M, T)."""
    return tokens.gather(1, beams[:, :, None].expand(-1, -1, tokens.shape[-1]))


def _padded(tokens: Tensor, width: int, padding: int) -> Tensor:
    padded: Tensor = nn.functional.pad(tokens, (0, width - tokens.shape[-1]), value=padding)
    return padded
