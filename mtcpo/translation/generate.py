"""The engine that is always there: the transformers library's `generate`, in batches of like length."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
)

from mtcpo.data.records import Candidate, Segment
from mtcpo.models.layouts.encode_once import encode_once
from mtcpo.models.loading import LoadedModel
from mtcpo.models.names import model_fingerprint
from mtcpo.models.prompts import TextExample
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.sampling import CUTOFFS, DiversityPenalty, Draw


@dataclass(slots=True)
class GenerateEngine:
    """Translate with a loaded model. `system` names its candidates; with several they are numbered from 1."""

    loaded: LoadedModel
    system: str
    on_batch: Callable[[int], object] = lambda sources: None
    """Told how many sources have been finished, for a progress bar."""

    @property
    def name(self) -> str:
        """Return what identifies the engine's outputs."""
        return f"generate {self.loaded.name} {model_fingerprint(self.loaded.name)} as {self.system}"

    def translate(self, segments: Sequence[Segment], config: TranslateConfig, seed: int) -> list[list[Candidate]]:
        """Translate segments (of any language pairs) and return candidates in their order."""
        texts = [TextExample(segment.source, segment.src_lang, segment.tgt_lang) for segment in segments]
        examples = self.loaded.layout.encode(texts)
        # By language too: generation is set up for one target language at a time.
        order = sorted(range(len(segments)), key=lambda i: (segments[i].tgt_lang, -len(examples[i].source)))
        found: list[list[Candidate]] = [[] for _ in segments]
        with self._evaluating(seed):
            for rows in _batches(order, segments, config.batch_size):
                batch = self.loaded.layout.generation_batch([examples[i] for i in rows])
                outputs = self._generate(batch, segments[rows[0]].tgt_lang, config)
                for i, candidates in zip(rows, outputs, strict=True):
                    found[i] = candidates
                self.on_batch(len(rows))
        return found

    @torch.inference_mode()
    def logprobs(self, segments: Sequence[Segment], batch_size: int) -> list[list[float]]:
        """Score each candidate as a target of training: dropout off, a source of n candidates encoded once."""
        loaded = self.loaded
        texts = [
            TextExample(s.source, s.src_lang, s.tgt_lang, tuple(c.text for c in s.candidates), id=s.id)
            for s in segments
        ]
        examples = loaded.layout.encode(texts)
        # A batch has the same number of candidates for every source, and like lengths.
        order = sorted(
            range(len(examples)), key=lambda i: (len(examples[i].targets), *loaded.layout.lengths(examples[i]))
        )
        found: list[list[float]] = [[] for _ in segments]
        with self._evaluating():
            for count, group in itertools.groupby(order, key=lambda i: len(examples[i].targets)):
                rows = list(group) if count else []
                for start in range(0, len(rows), batch_size):
                    chunk = rows[start : start + batch_size]
                    batch = loaded.layout.collate([examples[i] for i in chunk])
                    batch = send_to_device(batch, loaded.device)
                    sums = loaded.layout.score(loaded.model, loaded.head, batch).token_logps.sum(-1)
                    for column, i in enumerate(chunk):
                        found[i] = sums[column :: len(chunk)].tolist()
        return found

    @contextmanager
    def _evaluating(self, seed: int = 0) -> Iterator[None]:
        """Switch dropout off and seed the generators, and leave both as they were."""
        model, device = self.loaded.model, self.loaded.device
        training = model.training
        model.eval()
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed)
                yield
        finally:
            model.train(training)

    @torch.inference_mode()
    def _generate(self, batch: dict[str, Tensor], tgt_lang: str, config: TranslateConfig) -> list[list[Candidate]]:
        inputs = {key: value.to(self.loaded.device) for key, value in batch.items()}
        settings = self.loaded.layout.generation_settings(tgt_lang) | {"do_sample": False, "num_beams": 1}
        settings["max_new_tokens"] = config.max_new_tokens
        # The checkpoint may say max_length; two limits at once make the library warn at every batch.
        settings["max_length"] = None
        if config.sampling == "beam":
            settings |= {"num_beams": config.num_beams, "length_penalty": config.length_penalty}
            texts = self._texts(inputs, settings | {"num_return_sequences": config.num_candidates})[0]
        elif config.sampling == "diverse":
            texts = self._diverse(inputs, settings, config)
        else:
            texts = self._sampled(inputs, settings, config)
        names = _candidate_names(self.system, config)
        count = len(names)
        return [
            [Candidate(name, text) for name, text in zip(names, texts[i : i + count], strict=True)]
            for i in range(0, len(texts), count)
        ]

    def _texts(self, inputs: dict[str, Tensor], settings: dict[str, Any]) -> tuple[list[str], Tensor]:
        """Return the translations, and their token ids as generated."""
        tokens = self.loaded.layout.new_tokens(self.loaded.model.generate(**inputs, **settings), inputs)
        texts = self.loaded.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts], tokens

    def _sampled(self, inputs: dict[str, Tensor], settings: dict[str, Any], config: TranslateConfig) -> list[str]:
        """Return the samples, those of one source together: a greedy search where `Draw` leaves one token a step."""
        model, sources, copies = self.loaded.model, len(inputs["input_ids"]), config.num_candidates
        cutoff = CUTOFFS[config.sampling](config)
        settings |= {
            "logits_processor": LogitsProcessorList([TemperatureLogitsWarper(config.temperature), cutoff, Draw()])
        }
        rows = {key: value.repeat(copies, 1) for key, value in inputs.items()}
        with ExitStack() as stack:
            if model.config.is_encoder_decoder:
                stack.enter_context(encode_once(model.get_encoder(), sources, copies))
            texts = self._texts(rows, settings)[0]
        return [text for i in range(sources) for text in texts[i::sources]]

    def _diverse(self, inputs: dict[str, Tensor], settings: dict[str, Any], config: TranslateConfig) -> list[str]:
        """Return the translations of all groups, those of one source together."""
        model = self.loaded.model
        earlier: list[Tensor] = []
        groups: list[list[str]] = []
        # An encoder-decoder's output begins with the decoder's start token; a prompt has been cut off already.
        first = 1 if model.config.is_encoder_decoder else 0
        start = first or inputs["input_ids"].shape[1]
        ends = torch.tensor(model.generation_config.eos_token_id, device=self.loaded.device)
        for _ in range(config.num_candidates):
            penalty = DiversityPenalty(earlier, config.diversity_penalty, start, ends)
            texts, tokens = self._texts(inputs, settings | {"logits_processor": LogitsProcessorList([penalty])})
            earlier.append(tokens[:, first:])
            groups.append(texts)
        return [text for source in zip(*groups, strict=True) for text in source]


def _candidate_names(system: str, config: TranslateConfig) -> list[str]:
    """Name one candidate after the system, several after their rank in the search or their number as samples."""
    count = config.num_candidates
    if count == 1:
        return [system]
    kind = {"beam": "beam", "diverse": "group"}.get(config.sampling, "sample")
    return [f"{system}-{kind}-{n + 1:0{len(str(count))}}" for n in range(count)]


def _batches(order: Sequence[int], segments: Sequence[Segment], size: int) -> list[list[int]]:
    """Cut the order into batches of one target language each, at most `size` long."""
    batches: list[list[int]] = []
    for i in order:
        last = batches[-1] if batches else []
        if not last or len(last) == size or segments[last[0]].tgt_lang != segments[i].tgt_lang:
            batches.append([])
        batches[-1].append(i)
    return batches
