"""Scores of COMET models over many rows: every distinct text or input once, in batches of like length.

The library's `predict` encodes a source and a reference again for each candidate, and pads to the longest of sixteen
rows that it sorted by the characters of their sources. The scores here are its scores, to float32's rounding.

Dimensions: N rows, U distinct texts or inputs, B of them in a batch, S tokens, D hidden, C labels of words.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mtcpo.core.errors import UserError
from mtcpo.data.records import ErrorSpan
from mtcpo.metrics.comet.encoder import states
from mtcpo.metrics.comet.spans import Predictions, Run, find_runs, mqm_score, to_spans
from mtcpo.metrics.comet.tokens import Text, Tokens, batches

Row = tuple[str, ...]
"""Source, translation, and the reference where the model needs one."""

TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32768}
"""Padded tokens. On a CPU what a layer computes stays in its cache; a GPU wants much at once."""

ROWS_PER_HEAD = 4096


@dataclass(frozen=True)
class Mix:
    """How the layers' states become one: gamma * sum of weight * state, each state normalised before if `norm`.

    weights: of the embeddings and each layer.
    """

    weights: tuple[float, ...]
    gamma: float = 1.0
    norm: bool = False

    @property
    def depth(self) -> int:
        """The last layer that counts; those above it are never computed."""
        return max(number for number, weight in enumerate(self.weights) if weight)


def mix_of(model: Any) -> Mix:
    """Return how a model of the library mixes its layers."""
    attention = model.layerwise_attention
    if attention is None:
        layer = _existing(model.hparams.layer, model)
        return Mix(tuple(float(number == layer) for number in range(model.encoder.num_layers)))
    with torch.inference_mode():
        weights = attention.transform_fn(torch.cat(list(attention.scalar_parameters)).float(), dim=0)
    return Mix(tuple(weights.tolist()), attention.gamma.item(), bool(attention.layer_norm))


def _existing(layer: Any, model: Any) -> int:
    """Return a layer's number if the encoder has it; 0 is that of the embeddings."""
    if not isinstance(layer, int) or not 0 <= layer < model.encoder.num_layers:
        raise UserError(f"the COMET model reads layer {layer!r} of an encoder of {model.encoder.num_layers - 1}")
    return layer


@dataclass(frozen=True)
class Reading:
    """A batch that was encoded: ids (B, S), its mask or None, the mix of the layers (B, P, D), and the words' layer."""

    ids: Tensor
    mask: Tensor | None
    mixed: Tensor
    words: Tensor | None


class Engine:
    """What the two kinds of models share: batches through the encoder, and the mix of its layers.

    batch_tokens: padded tokens in a batch; None: as many as suit the device.
    """

    def __init__(self, model: Any, device: torch.device, batch_tokens: int | None = None) -> None:
        self._model = model
        self._device = device
        self._mix = mix_of(model)
        self._tokens = Tokens(model.encoder)
        self._word_layer = -1
        self._budget = batch_tokens or TOKENS_PER_BATCH[device.type]

    def _batch(self, sequences: Sequence[list[int]]) -> tuple[Tensor, Tensor | None]:
        """Return the ids (B, S), and the mask of tokens (B, S) or None where no sequence is padded."""
        longest = max(map(len, sequences))
        ids = torch.tensor([ids + [self._tokens.pad] * (longest - len(ids)) for ids in sequences])
        mask = None
        if any(len(ids) < longest for ids in sequences):
            mask = torch.arange(longest) < torch.tensor([len(ids) for ids in sequences])[:, None]
            mask = mask.to(self._device)
        return ids.to(self._device), mask

    def _read(
        self,
        sequences: Sequence[list[int]],
        first: int | None,
        words: Sequence[int] = (),
        token_types: Tensor | None = None,
    ) -> Reading:
        """Encode a batch.

        first: how many positions of the mix are wanted; None: all. words: how many of the words' layer, of each.
        """
        ids, mask = self._batch(sequences)
        mix, longest = self._mix, max(words, default=0)
        depth = max(mix.depth, self._word_layer)
        whole = bool(mix.weights[depth]) and (mix.norm or first is None)
        prefix, keep = None if whole else 1, None
        if self._word_layer == depth and not whole:
            prefix = longest
            keep = torch.arange(longest, device=self._device) < torch.tensor(words, device=self._device)[:, None]
        mixed, of_words = torch.zeros((), device=self._device), None
        of_layers = states(self._model.encoder.model, ids, mask, token_types, depth, prefix, keep)
        for number, state in enumerate(of_layers):
            if mix.weights[number]:
                part = _normalised(state, mask, first) if mix.norm else state[:, :first]
                mixed = mixed + mix.weights[number] * part
            if number == self._word_layer:
                of_words = state[:, :longest]
        return Reading(ids, mask, mix.gamma * mixed, of_words)


def _normalised(state: Tensor, mask: Tensor | None, first: int | None) -> Tensor:
    """Return the first positions of states normalised over all tokens and dimensions of their sentence."""
    if mask is None:
        mask = torch.ones(state.shape[:2], device=state.device)
    real = mask[..., None]
    count = (mask.sum(1) * state.shape[-1])[:, None, None]
    mean = (state * real).sum((1, 2), keepdim=True) / count
    variance = (((state - mean) * real) ** 2).sum((1, 2), keepdim=True) / count
    return (state[:, :first] - mean) / torch.sqrt(variance + 1e-12)


class Estimator(Engine):
    """Models whose score is a function of the sentence embeddings of source, translation and reference."""

    def __init__(self, model: Any, device: torch.device, batch_tokens: int | None = None) -> None:
        super().__init__(model, device, batch_tokens)
        if model.hparams.pool == "default":  # the last layer, whatever the mix
            self._mix = Mix((*[0.0] * (model.encoder.num_layers - 1), 1.0))

    def predict(self, rows: Sequence[Row]) -> Predictions:
        """Score rows; each distinct text is embedded once."""
        if not rows:
            return Predictions([])
        with torch.inference_mode():
            numbers = {text: number for number, text in enumerate(dict.fromkeys(chain.from_iterable(rows)))}
            embeddings = self._embed(list(numbers))
            scores: list[float] = []
            for start in range(0, len(rows), ROWS_PER_HEAD):
                some = rows[start : start + ROWS_PER_HEAD]
                columns = torch.tensor([[numbers[text] for text in row] for row in some], device=self._device).unbind(1)
                scores += self._estimate([embeddings[column] for column in columns]).tolist()
        return Predictions(scores)

    def _estimate(self, of_rows: Sequence[Tensor]) -> Tensor:
        """Return the scores of the embeddings (N, D) of sources, translations and references. Shape (N,)."""
        if len(of_rows) == 3:
            score: Tensor = self._model.estimate(*of_rows).score
            return score
        source, translation = of_rows
        features = (translation, source, translation * source, (translation - source).abs())
        found: Tensor = self._model.estimator(torch.cat(features, dim=1)).view(-1)
        return found

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Return the sentence embeddings of distinct texts. Shape (U, D), float32."""
        ids = [text.ids for text in self._tokens(texts).values()]
        embeddings = torch.empty(len(texts), self._model.encoder.output_units, device=self._device)
        for batch in batches([len(of_text) for of_text in ids], self._budget):
            embeddings[batch] = self._pooled([ids[index] for index in batch])
        return embeddings

    def _pooled(self, sequences: Sequence[list[int]]) -> Tensor:
        """Return the sentence embeddings of a batch. Shape (B, D)."""
        pool = self._model.hparams.pool
        read = self._read(sequences, None if pool in ("avg", "max") else 1)
        if pool not in ("avg", "max"):
            return read.mixed[:, 0]
        # A text may spell the padding token: it has no part in the sum, and is counted as the library counts it.
        padding = (read.ids == self._tokens.pad)[..., None]
        if pool == "max":
            return read.mixed.masked_fill(padding, float("-inf")).amax(1)
        length: Tensor | int = read.ids.shape[1] if read.mask is None else read.mask.sum(1, keepdim=True)
        return read.mixed.masked_fill(padding, 0.0).sum(1) / length


class Unified(Engine):
    """Models that read translation, source and reference together; some of them also label the translation's words.

    With source and reference they read three inputs: translation with source, with reference, with both.
    """

    def __init__(self, model: Any, device: torch.device, batch_tokens: int | None = None) -> None:
        super().__init__(model, device, batch_tokens)
        self._typed = "token_type_ids" in inspect.signature(model.encoder.forward).parameters
        self._severities: tuple[str, ...] = ()
        if model.word_level:
            self._word_layer = _existing(model.hparams.word_layer, model)
            names = model.label_encoder.ids_to_label
            self._severities = tuple(names[number].partition("-")[2] for number in range(len(names)))

    def predict(self, rows: Sequence[Row]) -> Predictions:
        """Score rows, and find the errors where the model does; each distinct input is read once."""
        if not rows:
            return Predictions([])
        texts = self._tokens(list(dict.fromkeys(chain.from_iterable(rows))))
        of_rows = [self._inputs(row) for row in rows]
        inputs = list(dict.fromkeys(chain.from_iterable(of_rows)))
        numbers = {parts: number for number, parts in enumerate(inputs)}
        with torch.inference_mode():
            scores, labels = self._read_all([[texts[part] for part in parts] for parts in inputs])
            at = [[numbers[parts] for parts in of_row] for of_row in of_rows]
            runs = None
            if labels is not None:
                runs = find_runs(self._label_sums(labels, at), [len(texts[row[1]].offsets) for row in rows])
            found = self._combined(scores[torch.tensor(at, device=self._device)], runs).tolist()
        return Predictions(found, None if runs is None else self._spans(rows, texts, runs))

    def _spans(
        self, rows: Sequence[Row], texts: Mapping[str, Text], runs: Sequence[Sequence[Run]]
    ) -> list[list[ErrorSpan]]:
        """Return the runs as errors with their texts."""
        return [
            to_spans(of_row, texts[row[1]].ids, texts[row[1]].offsets, self._severities, self._tokens.tokenizer)
            for row, of_row in zip(rows, runs, strict=True)
        ]

    def _inputs(self, row: Row) -> list[tuple[str, ...]]:
        """Return the texts of each input that a row is read as."""
        source, translation, *reference = row
        segments = self._model.hparams.input_segments
        if "ref" not in segments:
            return [(translation, source)]
        if "src" not in segments:
            return [(translation, *reference)]
        return [(translation, source), (translation, *reference), (translation, source, *reference)]

    def _read_all(self, inputs: Sequence[Sequence[Text]]) -> tuple[Tensor, list[Tensor] | None]:
        """Return the score (U,) of each input, and the labels' probabilities (T, C) of its translation's tokens."""
        ids = [self._tokens.joined(parts) for parts in inputs]
        words = [len(parts[0].offsets) for parts in inputs] if self._model.word_level else None
        scores = torch.empty(len(inputs), device=self._device)
        labels: list[Tensor] = [scores] * len(inputs)
        for batch in batches([len(of_input) for of_input in ids], self._budget, [len(parts) for parts in inputs]):
            sequences = [ids[index] for index in batch]
            of_batch = [words[index] for index in batch] if words else []
            types = self._token_types([inputs[index][0] for index in batch], max(map(len, sequences)))
            read = self._read(sequences, 1, of_batch, types)
            scores[batch] = self._model.estimator(read.mixed[:, 0]).view(-1)
            if read.words is not None:
                probabilities = self._model.hidden2tag(read.words).softmax(-1).cpu()
                for index, length, row in zip(batch, of_batch, probabilities, strict=True):
                    labels[index] = row[:length]
        return scores, labels if words else None

    def _token_types(self, translations: Sequence[Text], longest: int) -> Tensor | None:
        """Return 0 for the translation's tokens and 1 for the others, where the encoder tells them apart."""
        if not self._typed:
            return None
        lengths = torch.tensor([sum(token != self._tokens.pad for token in text.ids) for text in translations])
        return (torch.arange(longest) >= lengths[:, None]).long().to(self._device)

    def _label_sums(self, labels: Sequence[Tensor], at: Sequence[Sequence[int]]) -> Tensor:
        """Return the labels' probabilities of the rows' words, weighted over each row's inputs. Shape (T, C)."""
        columns = [torch.cat([labels[number] for number in column]) for column in zip(*at, strict=True)]
        if len(columns) == 1:
            return columns[0]
        weighted = [weight * column for weight, column in zip(self._model.input_weights_spans, columns, strict=True)]
        return torch.stack(weighted).sum(0)

    def _combined(self, scores: Tensor, runs: Sequence[Sequence[Run]] | None) -> Tensor:
        """Return the scores of rows from those of their inputs (N, 1) or (N, 3). Shape (N,)."""
        weights = getattr(self._model, "score_weights", None)
        if weights is None or runs is None:
            return scores.mean(1)
        mqm = torch.tensor([mqm_score(of_row, self._severities) for of_row in runs], device=self._device)
        of_inputs = scores.clamp(max=1.0) * torch.tensor(weights[:-1], device=self._device)
        total: Tensor = of_inputs.sum(1) + weights[-1] * mqm
        return total


def engine_of(model: Any, device: torch.device, batch_tokens: int | None = None) -> Estimator | Unified:
    """Return the engine for a loaded model of the library."""
    return (Unified if hasattr(model, "word_level") else Estimator)(model, device, batch_tokens)
