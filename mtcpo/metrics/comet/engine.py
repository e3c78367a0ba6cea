"""Score many rows with a COMET model: each distinct text or input is encoded once, in batches of similar length.

COMET's own `predict` encodes source and reference again for each candidate, in batches of sixteen rows sorted by source
length in characters. The scores here equal COMET's, up to float32 rounding.

Dimensions: N rows, U distinct texts or inputs, B of them in a batch, S tokens, P pooled positions, D hidden, T tokens
of all translations, C word labels.
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
"""(source, translation[, reference...]), with a reference if the model needs one; see `Estimator` for several."""

TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32768}
"""Padded tokens. On a CPU, a layer's states should fit its cache; a GPU needs many tokens to be busy."""

ROWS_PER_HEAD = 4096  # their features, some 7 * D floats each, stay below 120 MB


@dataclass(frozen=True)
class Mix:
    """How the layers' states are combined: gamma * sum(weight * state), each state normalized first if `norm`.

    weights: of the embeddings, then of each layer.
    """

    weights: tuple[float, ...]
    gamma: float = 1.0
    norm: bool = False

    @property
    def depth(self) -> int:
        """The last layer with a nonzero weight; layers above it need not be computed."""
        return max(number for number, weight in enumerate(self.weights) if weight)


def mix_of(model: Any) -> Mix:
    """Return how a COMET model mixes its layers."""
    attention = model.layerwise_attention
    if attention is None:
        return _single_layer(_check_layer(model.hparams.layer, model), model)
    with torch.inference_mode():
        weights = attention.transform_fn(torch.cat(list(attention.scalar_parameters)).float(), dim=0)
    return Mix(tuple(weights.tolist()), attention.gamma.item(), bool(attention.layer_norm))


def _single_layer(layer: int, model: Any) -> Mix:
    weights = [0.0] * model.encoder.num_layers
    weights[layer] = 1.0
    return Mix(tuple(weights))


def _check_layer(layer: Any, model: Any) -> int:
    """Return a layer's number if the encoder has it; 0 means the embeddings."""
    if not isinstance(layer, int) or not 0 <= layer < model.encoder.num_layers:
        raise UserError(
            f"the COMET model reads layer {layer!r}, but its encoder has {model.encoder.num_layers - 1} layers"
        )
    return layer


@dataclass(frozen=True)
class EncodedBatch:
    """A batch after the encoder.

    ids: Shape (B, S). mask: True at tokens, shape (B, S); None: nothing is padded. mixed: the mix of the layers, shape
    (B, P, D). word_states: of each translation's tokens, from the layer used for labeling words.
    """

    ids: Tensor
    mask: Tensor | None
    mixed: Tensor
    word_states: Tensor | None


class Engine:
    """What both kinds of models share: running batches through the encoder and mixing its layers.

    batch_tokens: padded tokens in a batch; None: TOKENS_PER_BATCH.
    """

    def __init__(self, model: Any, device: torch.device, batch_tokens: int | None = None) -> None:
        self._model = model
        self._device = device
        self._mix = mix_of(model)
        self._tokens = Tokens(model.encoder)
        self._word_layer = -1
        self._budget = batch_tokens or TOKENS_PER_BATCH[device.type]

    def _pad(self, sequences: Sequence[list[int]]) -> tuple[Tensor, Tensor | None]:
        """Return the ids (B, S), and the mask of tokens (B, S) or None if no sequence is padded."""
        lengths = list(map(len, sequences))
        longest = max(lengths)
        ids = torch.tensor([ids + [self._tokens.pad] * (longest - len(ids)) for ids in sequences])
        mask = None
        # Attention without a mask uses torch's fastest kernel; batches of equal length need none.
        if min(lengths) < longest:
            mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
            mask = mask.to(self._device)
        return ids.to(self._device), mask

    def _encode(
        self,
        sequences: Sequence[list[int]],
        positions: int | None,
        word_counts: Sequence[int] = (),
        token_types: Tensor | None = None,
    ) -> EncodedBatch:
        """Encode a batch.

        Args:
            sequences: Token ids.
            positions: How many positions of the mix are needed; None: all.
            word_counts: For each sequence, how many positions of the word layer are needed.
            token_types: Shape (B, S), or None.
        """
        ids, mask = self._pad(sequences)
        mix, longest = self._mix, max(word_counts, default=0)
        depth = max(mix.depth, self._word_layer)
        # The last layer is computed only at positions that are read: all if its state is normalized over the sentence
        # or pooled, one if the first token represents the sentence, and those of the words if they are labeled.
        needs_all = bool(mix.weights[depth]) and (mix.norm or positions is None)
        prefix, keep = None if needs_all else 1, None
        if self._word_layer == depth and not needs_all:
            prefix = longest
            counts = torch.tensor(word_counts, device=self._device)
            keep = torch.arange(longest, device=self._device) < counts[:, None]
        mixed, word_states = torch.zeros((), device=self._device), None
        layers = states(self._model.encoder.model, ids, mask, token_types, depth, prefix, keep)
        # Each state is mixed in at once and then dropped: the states of all layers would not fit a CPU's cache.
        for number, state in enumerate(layers):
            if mix.weights[number]:
                part = _normalized(state, mask, positions) if mix.norm else state[:, :positions]
                mixed = mixed + mix.weights[number] * part
            if number == self._word_layer:
                word_states = state[:, :longest]
        return EncodedBatch(ids, mask, mix.gamma * mixed, word_states)


def _normalized(state: Tensor, mask: Tensor | None, positions: int | None) -> Tensor:
    """Return states at the first positions, normalized over all tokens and dimensions of their sentence."""
    if mask is None:
        mask = torch.ones(state.shape[:2], device=state.device)
    real = mask[..., None]
    count = (mask.sum(1) * state.shape[-1])[:, None, None]
    mean = (state * real).sum((1, 2), keepdim=True) / count
    variance = (((state - mean) * real) ** 2).sum((1, 2), keepdim=True) / count
    return (state[:, :positions] - mean) / torch.sqrt(variance + 1e-12)  # COMET's epsilon


class Estimator(Engine):
    """Models whose score is a function of the sentence embeddings of source, translation and reference.

    Several references in a row count as one, with the mean of their embeddings, repeated ones several times.
    """

    def __init__(self, model: Any, device: torch.device, batch_tokens: int | None = None) -> None:
        super().__init__(model, device, batch_tokens)
        if model.hparams.pool == "default":  # COMET then uses the last layer and ignores the mix
            self._mix = _single_layer(model.encoder.num_layers - 1, model)

    def predict(self, rows: Sequence[Row]) -> Predictions:
        """Score rows; each distinct text is embedded once."""
        if not rows:
            return Predictions([])
        with torch.inference_mode():
            numbers = {text: number for number, text in enumerate(dict.fromkeys(chain.from_iterable(rows)))}
            embeddings = self._embed(list(numbers))
            # For each of source, translation and reference: the embeddings, and which of them belongs to each row.
            columns = [(embeddings, [numbers[row[part]] for row in rows]) for part in (0, 1)]
            if len(rows[0]) > 2:
                columns.append(self._mean_references(rows, embeddings, numbers))
            scores: list[float] = []
            for start in range(0, len(rows), ROWS_PER_HEAD):
                parts: list[Tensor] = []
                for states_of_part, indices in columns:
                    part = torch.tensor(indices[start : start + ROWS_PER_HEAD], device=self._device)
                    parts.append(states_of_part[part])
                scores += self._estimate(parts).tolist()
        return Predictions(scores)

    def _mean_references(
        self, rows: Sequence[Row], embeddings: Tensor, numbers: Mapping[str, int]
    ) -> tuple[Tensor, list[int]]:
        """Return the mean embedding of each distinct list of references (L, D), and each row's list by number."""
        lists = {references: number for number, references in enumerate(dict.fromkeys(row[2:] for row in rows))}
        counts = torch.tensor(list(map(len, lists)), device=self._device)
        texts = torch.tensor([numbers[text] for text in chain.from_iterable(lists)], device=self._device)
        sums = torch.zeros(len(lists), embeddings.shape[1], device=self._device)
        # The texts lie list by list: as many as a list has, then those of the next.
        sums.index_add_(0, torch.repeat_interleave(counts), embeddings[texts])
        return sums / counts[:, None], [lists[row[2:]] for row in rows]

    def _estimate(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Return the scores for the embeddings (N, D) of sources, translations and references. Shape (N,)."""
        if len(embeddings) == 3:
            score: Tensor = self._model.estimate(*embeddings).score
            return score
        # COMET's reference-free models compute these features inside `forward`, which also encodes.
        source, translation = embeddings
        features = (translation, source, translation * source, (translation - source).abs())
        estimate: Tensor = self._model.estimator(torch.cat(features, dim=1)).view(-1)
        return estimate

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Return the sentence embeddings of distinct texts. Shape (U, D), float32."""
        ids = [text.ids for text in self._tokens(texts).values()]
        embeddings = torch.empty(len(texts), self._model.encoder.output_units, device=self._device)
        for batch in batches(list(map(len, ids)), self._budget):
            embeddings[batch] = self._pooled([ids[index] for index in batch])
        return embeddings

    def _pooled(self, sequences: Sequence[list[int]]) -> Tensor:
        """Return the sentence embeddings of a batch. Shape (B, D)."""
        pool = self._model.hparams.pool
        encoded = self._encode(sequences, None if pool in ("avg", "max") else 1)
        if pool not in ("avg", "max"):
            return encoded.mixed[:, 0]
        # A text may contain the padding token: as in COMET, it is left out of the sum but counts in the length.
        padding = (encoded.ids == self._tokens.pad)[..., None]
        if pool == "max":
            return encoded.mixed.masked_fill(padding, float("-inf")).amax(1)
        length: Tensor | int = encoded.ids.shape[1] if encoded.mask is None else encoded.mask.sum(1, keepdim=True)
        return encoded.mixed.masked_fill(padding, 0.0).sum(1) / length


class Unified(Engine):
    """Models that read translation, source and reference together; some of them also label the translation's words.

    With source and reference, there are three inputs: the translation with source, with reference, with both.
    """

    def __init__(self, model: Any, device: torch.device, batch_tokens: int | None = None) -> None:
        super().__init__(model, device, batch_tokens)
        self._typed = "token_type_ids" in inspect.signature(model.encoder.forward).parameters
        self._severities: tuple[str, ...] = ()
        if model.word_level:
            self._word_layer = _check_layer(model.hparams.word_layer, model)
            labels = model.label_encoder.ids_to_label
            # "O" has no severity, "I-major" has "major".
            self._severities = tuple(labels[number].partition("-")[2] for number in range(len(labels)))

    def predict(self, rows: Sequence[Row]) -> Predictions:
        """Score rows, and find error spans where the model does; each distinct input is encoded once."""
        if not rows:
            return Predictions([])
        texts = self._tokens(list(dict.fromkeys(chain.from_iterable(rows))))
        inputs_of_rows = list(map(self._inputs, rows))
        inputs = dict.fromkeys(chain.from_iterable(inputs_of_rows))
        numbers = {parts: number for number, parts in enumerate(inputs)}
        with torch.inference_mode():
            scores, labels = self._encode_all([[texts[part] for part in parts] for parts in inputs])
            # For each row, the indices of its inputs.
            indices = [list(map(numbers.__getitem__, row_inputs)) for row_inputs in inputs_of_rows]
            runs = None
            if labels is not None:
                runs = find_runs(self._label_sums(labels, indices), [len(texts[row[1]].offsets) for row in rows])
            combined = self._combine(scores[torch.tensor(indices, device=self._device)], runs).tolist()
        return Predictions(combined, None if runs is None else self._spans(rows, texts, runs))

    def _spans(
        self, rows: Sequence[Row], texts: Mapping[str, Text], runs: Sequence[Sequence[Run]]
    ) -> list[list[ErrorSpan]]:
        """Convert the runs of each row to error spans with their texts."""
        spans: list[list[ErrorSpan]] = []
        for row, runs_of_row in zip(rows, runs, strict=True):
            translation = texts[row[1]]
            spans.append(to_spans(runs_of_row, translation, self._severities, self._tokens.tokenizer))
        return spans

    def _inputs(self, row: Row) -> list[tuple[str, ...]]:
        """Return a row's inputs, each a tuple of texts with the translation first."""
        source, translation, *reference = row
        segments = self._model.hparams.input_segments
        if "ref" not in segments:
            return [(translation, source)]
        if "src" not in segments:
            return [(translation, *reference)]
        return [(translation, source), (translation, *reference), (translation, source, *reference)]

    def _encode_all(self, inputs: Sequence[Sequence[Text]]) -> tuple[Tensor, list[Tensor] | None]:
        """Return the score (U,) of each input, and the label probabilities of its translation's tokens."""
        ids = list(map(self._tokens.joined, inputs))
        scores = torch.empty(len(inputs), device=self._device)
        labels = [scores] * len(inputs) if self._model.word_level else None  # placeholders, replaced below
        for batch in batches(list(map(len, ids)), self._budget, list(map(len, inputs))):
            sequences = [ids[index] for index in batch]
            translations = [inputs[index][0] for index in batch]
            word_counts = [] if labels is None else [len(text.offsets) for text in translations]
            encoded = self._encode(sequences, 1, word_counts, self._token_types(translations, sequences))
            scores[batch] = self._model.estimator(encoded.mixed[:, 0]).view(-1)
            if labels is not None:
                # Copied from the device once per batch, not once per translation.
                probabilities = self._model.hidden2tag(encoded.word_states).softmax(-1).cpu()
                for index, count, row in zip(batch, word_counts, probabilities, strict=True):
                    labels[index] = row[:count]
        return scores, labels

    def _token_types(self, translations: Sequence[Text], sequences: Sequence[list[int]]) -> Tensor | None:
        """Return 0 for the translation's tokens and 1 for all others, shape (B, S); None for encoders without types."""
        if not self._typed:
            return None
        lengths = [len(text.ids) - text.ids.count(self._tokens.pad) for text in translations]
        positions = torch.arange(max(map(len, sequences)))
        return (positions >= torch.tensor(lengths)[:, None]).long().to(self._device)

    def _label_sums(self, labels: Sequence[Tensor], indices: Sequence[Sequence[int]]) -> Tensor:
        """Return the label probabilities of the rows' words, a weighted sum over each row's inputs. Shape (T, C)."""
        columns: list[Tensor] = []
        for column in zip(*indices, strict=True):
            columns.append(torch.cat([labels[number] for number in column]))
        if len(columns) == 1:
            return columns[0]
        weights = self._model.input_weights_spans[:, None, None]
        weighted: Tensor = (weights * torch.stack(columns)).sum(0)
        return weighted

    def _combine(self, scores: Tensor, runs: Sequence[Sequence[Run]] | None) -> Tensor:
        """Return the scores of rows from those of their inputs (N, 1) or (N, 3). Shape (N,)."""
        weights = getattr(self._model, "score_weights", None)
        if weights is None or runs is None:
            return scores.mean(1)
        mqm = torch.tensor([mqm_score(runs_of_row, self._severities) for runs_of_row in runs], device=self._device)
        # XCOMET's regression score may exceed 1; its own predict clips it before weighting.
        weighted = scores.clamp(max=1.0) * torch.tensor(weights[:-1], device=self._device)
        total: Tensor = weighted.sum(1) + weights[-1] * mqm
        return total


def engine_of(model: Any, device: torch.device, batch_tokens: int | None = None) -> Estimator | Unified:
    """Return the engine for a loaded COMET model."""
    return (Unified if hasattr(model, "word_level") else Estimator)(model, device, batch_tokens)
