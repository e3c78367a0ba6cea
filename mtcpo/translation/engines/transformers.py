"""The default engine: transformers' `generate`, in batches of sources of similar length."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper

from mtcpo.data.records import Candidate, Segment
from mtcpo.models.layouts.base import Example
from mtcpo.models.layouts.encode_once import encode_once
from mtcpo.models.loading import LoadedModel
from mtcpo.models.names import model_fingerprint
from mtcpo.models.prompts import TextExample
from mtcpo.translation.batches import halving, make_batches
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.base import candidate_names, exceed_positions
from mtcpo.translation.engines.beam_search import beam_search, drops_sources, greedy_search
from mtcpo.translation.engines.logits import CUTOFFS, DiversityPenalty, Draw, uniform_numbers


@dataclass(slots=True)
class GenerateEngine:
    """An `Engine` for a loaded model. system: name of its candidates, with a number from 1 if there are several."""

    loaded: LoadedModel
    system: str
    on_batch: Callable[[int], object] = lambda sources: None
    """Called with the number of sources just translated, for a progress bar."""

    @property
    def label(self) -> str:
        """Engine, version and precision."""
        precision = str(self.loaded.model.dtype).removeprefix("torch.")
        return f"transformers {transformers.__version__} ({precision})"

    @property
    def proof(self) -> str:
        """Nothing: other engines are compared with this one."""
        return ""

    @property
    def name(self) -> str:
        """What the outputs depend on besides settings; see `Engine.name`."""
        return f"{self.label} {self.loaded.name} {model_fingerprint(self.loaded.name)} as {self.system}"

    def translate(self, segments: Sequence[Segment], config: TranslateConfig, draw: int = 0) -> list[list[Candidate]]:
        """Return the candidates of each segment, in the order of the segments."""
        layout = self.loaded.layout
        examples = layout.encode([TextExample(each.source, each.src_lang, each.tgt_lang) for each in segments])
        # By language, because `generate` is configured for one target language at a time; then longest first, so that
        # a batch that does not fit into memory fails at once.
        order = sorted(range(len(segments)), key=lambda i: (segments[i].tgt_lang, -len(examples[i].source)))
        candidates: list[list[Candidate]] = [[] for _ in segments]
        with self._evaluating():
            for indices in make_batches(order, segments, [len(each.source) for each in examples], config):
                for rows, outputs in halving(indices, partial(self._translate_batch, segments, examples, config, draw)):
                    for i, source_candidates in zip(rows, outputs, strict=True):
                        candidates[i] = source_candidates
                    self.on_batch(len(rows))
        return candidates

    def _translate_batch(
        self, segments: Sequence[Segment], examples: Sequence[Example], config: TranslateConfig, draw: int,
        rows: Sequence[int],
    ) -> list[list[Candidate]]:  # fmt: skip
        """Return the candidates of the segments with these indices."""
        batch = self.loaded.layout.generation_batch([examples[i] for i in rows])
        return self._generate(batch, [segments[i] for i in rows], config, draw)

    def too_long(self, segments: Sequence[Segment], config: TranslateConfig) -> list[bool]:
        """Return for each source whether it is longer than the model takes."""
        return exceed_positions(self.loaded.layout, segments, config)

    @torch.inference_mode()
    def logprobs(self, segments: Sequence[Segment], batch_size: int) -> list[list[float]]:
        """Return the log-probability of each candidate as a training target: nats, summed, without dropout."""
        examples = self.loaded.layout.encode(list(map(_as_targets, segments)))
        sums: list[list[float]] = [[] for _ in segments]
        with self._evaluating():
            for indices in self._batches_of_targets(examples, batch_size):
                for rows, target_logps in halving(indices, partial(self._score_batch, examples)):
                    # Targets are ordered by candidate: the first of every source, then the second of every source.
                    for column, i in enumerate(rows):
                        sums[i] = target_logps[column :: len(rows)].tolist()
        return sums

    def _score_batch(self, examples: Sequence[Example], rows: Sequence[int]) -> Tensor:
        """Return the log-probabilities of the targets of the examples with these indices."""
        batch = send_to_device(self.loaded.layout.collate([examples[i] for i in rows]), self.loaded.device)
        token_logps: Tensor = self.loaded.layout.score(self.loaded.model, self.loaded.head, batch).token_logps
        return token_logps.sum(-1)

    def _batches_of_targets(self, examples: Sequence[Example], batch_size: int) -> Iterator[list[int]]:
        """Yield indices of examples with the same number of targets, of similar lengths."""
        lengths = self.loaded.layout.lengths
        order = sorted(range(len(examples)), key=lambda i: (len(examples[i].targets), *lengths(examples[i])))
        for targets, indices in itertools.groupby(order, key=lambda i: len(examples[i].targets)):
            rows = list(indices) if targets else []
            for start in range(0, len(rows), batch_size):
                yield rows[start : start + batch_size]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Switch dropout off inside the block."""
        model = self.loaded.model
        was_training = model.training
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)

    @torch.inference_mode()
    def _generate(
        self, batch: dict[str, Tensor], segments: Sequence[Segment], config: TranslateConfig, draw: int
    ) -> list[list[Candidate]]:
        """Return the candidates of each segment of a batch; all have the same target language."""
        inputs = send_to_device(batch, self.loaded.device)
        settings = self.loaded.layout.generation_settings(segments[0].tgt_lang) | {"do_sample": False, "num_beams": 1}
        settings["max_new_tokens"] = config.max_new_tokens
        # The checkpoint may set max_length; with two limits, transformers warns at every batch.
        settings["max_length"] = None
        if drops_sources(self.loaded.model):
            has_beams = config.sampling == "beam" and config.num_beams > 1
            settings["custom_generate"] = beam_search if has_beams else greedy_search
        if config.sampling == "beam":
            settings |= {"num_beams": config.num_beams, "length_penalty": config.length_penalty}
            texts = self._texts(inputs, settings | {"num_return_sequences": config.num_candidates})[0]
        elif config.sampling == "diverse":
            texts = self._diverse(inputs, settings, config)
        else:
            uniforms = uniform_numbers([segment.id for segment in segments], config, draw)
            texts = self._sampled(inputs, settings, config, uniforms.to(self.loaded.device))
        names = candidate_names(self.system, config)
        candidates = []
        # Whatever the search, the translations of a source are adjacent.
        for start in range(0, len(texts), len(names)):
            translations = texts[start : start + len(names)]
            candidates.append(list(map(Candidate, names, translations)))
        return candidates

    def _texts(self, inputs: dict[str, Tensor], settings: dict[str, Any]) -> tuple[list[str], Tensor]:
        """Return translations, and their token ids (rows, T) as generated."""
        tokens = self.loaded.layout.new_tokens(self.loaded.model.generate(**inputs, **settings), inputs)
        texts = self.loaded.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        # SentencePiece leaves the first word's space; chat models often begin with a line break.
        return list(map(str.strip, texts)), tokens

    def _sampled(
        self, inputs: dict[str, Tensor], settings: dict[str, Any], config: TranslateConfig, uniforms: Tensor
    ) -> list[str]:
        """Return samples, grouped by source."""
        model, sources, copies = self.loaded.model, len(inputs["input_ids"]), config.num_candidates
        cutoff = CUTOFFS[config.sampling](config)
        # Sampling by greedy search: `Draw` leaves one possible token at each step.
        processors = [TemperatureLogitsWarper(config.temperature), cutoff, Draw(uniforms, self._start(inputs))]
        settings |= {"logits_processor": LogitsProcessorList(processors)}
        # All sources, then all of them again: `encode_once` repeats the encoder's states in this order.
        rows = {key: value.repeat(copies, 1) for key, value in inputs.items()}
        with ExitStack() as stack:
            if model.config.is_encoder_decoder:
                stack.enter_context(encode_once(model.get_encoder(), sources, copies))
            texts = self._texts(rows, settings)[0]
        by_source = (texts[i::sources] for i in range(sources))
        return list(itertools.chain.from_iterable(by_source))

    def _diverse(self, inputs: dict[str, Tensor], settings: dict[str, Any], config: TranslateConfig) -> list[str]:
        """Return the translations of all groups of a diverse beam search, grouped by source."""
        model = self.loaded.model
        earlier: list[Tensor] = []
        groups: list[list[str]] = []
        start = self._start(inputs)
        # An encoder-decoder's output begins with the decoder start token; a decoder-only's prompt is already removed.
        first = 1 if model.config.is_encoder_decoder else 0
        ends = torch.tensor(model.generation_config.eos_token_id, device=self.loaded.device)
        for _ in range(config.num_candidates):
            # Each group is a separate greedy search over the whole batch.
            penalty = DiversityPenalty(earlier, config.diversity_penalty, start, ends)
            texts, tokens = self._texts(inputs, settings | {"logits_processor": LogitsProcessorList([penalty])})
            earlier.append(tokens[:, first:])
            groups.append(texts)
        return list(itertools.chain.from_iterable(zip(*groups, strict=True)))

    def _start(self, inputs: dict[str, Tensor]) -> int:
        """Return the number of positions before the first generated one: of the start token, or of the prompt."""
        return 1 if self.loaded.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]


def _as_targets(segment: Segment) -> TextExample:
    """Return a segment with the texts of its candidates as targets."""
    texts = tuple(candidate.text for candidate in segment.candidates)
    return TextExample(segment.source, segment.src_lang, segment.tgt_lang, texts, id=segment.id)
