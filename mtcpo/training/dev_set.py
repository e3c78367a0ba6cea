"""The dev set of a training: at every evaluation, all processes translate a part, and the first one scores it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from mtcpo.core.errors import UserError
from mtcpo.core.progress import Progress
from mtcpo.data.corpora import Drops, read_corpus
from mtcpo.data.records import Segment
from mtcpo.metrics.base import Metric
from mtcpo.metrics.registry import load_metric
from mtcpo.models.config import EngineName
from mtcpo.models.loading import LoadedModel
from mtcpo.training.config import DevConfig, TrainConfig
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.base import Job
from mtcpo.translation.engines.registry import check_engine, load_engine
from mtcpo.translation.mbr import check_mbr
from mtcpo.translation.translate import translate_texts


@dataclass(frozen=True, slots=True)
class DevSet:
    """Segments with references, metrics to score their translations, and decoding settings.

    engine: what translates, as in `DevConfig`. samples: how many translations `evaluate` returns as examples, spread
    evenly over the set.
    """

    segments: tuple[Segment, ...]
    metrics: tuple[Metric, ...]
    decoding: TranslateConfig
    samples: int = 3
    engine: EngineName = "auto"

    def evaluate(self, loaded: LoadedModel, accelerator: Any) -> tuple[dict[str, float], list[dict[str, str]]]:
        """Return metric -> corpus score, and sample translations; the same in every process.

        The model, its mode and the random generators are left as they were.

        Raises:
            UserError: a metric cannot score the translations.
        """
        texts = self._translate(loaded, accelerator)
        outcome: list[Any] = [None]
        if accelerator.is_main_process:
            try:
                outcome = [self.score(texts)]
            except UserError as error:
                # Broadcast: the other processes would wait forever for scores that never come.
                outcome = [error]
        broadcast_object_list(outcome)
        if isinstance(outcome[0], UserError):
            raise outcome[0]
        return outcome[0], self._samples(texts)

    def check_engine(self, weights_are_sharded: bool) -> None:
        """Refuse an engine that converts the model, where no process has the whole model.

        Raises:
            UserError: the weights are sharded, and the engine is not transformers.
        """
        if weights_are_sharded and self.engine not in ("auto", "transformers"):
            raise UserError(
                f"train.dev.engine: {self.engine} converts the whole model, and each process has only a shard of its "
                "weights; leave the engine out"
            )

    def _translate(self, loaded: LoadedModel, accelerator: Any) -> list[str]:
        """Return the translation of every segment; each of n processes translates every n-th segment."""
        count, processes = len(self.segments), accelerator.num_processes
        # Equally many in each process, some twice if need be: with sharded weights, none can translate alone.
        rounds = -(-count // processes)
        numbers = [number % count for number in range(accelerator.process_index, rounds * processes, processes)]
        options = replace(loaded.options, engine=self.engine)
        with Progress("translating the dev set", len(numbers), "sources") as progress:
            job = Job([self.decoding], self.segments)
            engine = load_engine(loaded, "dev", options=options, on_batch=progress.update, job=job)
            part = translate_texts(engine, [self.segments[n] for n in numbers], self.decoding)
        translations = dict(gather_object(list(zip(numbers, part, strict=True))))
        return [translations[number] for number in range(count)]

    def score(self, texts: Sequence[str]) -> dict[str, float]:
        """Return metric -> corpus score. texts: one translation for each segment."""
        return {
            metric.name: float(metric.corpus_score(metric.statistics(texts, self.segments).sum(axis=0)))
            for metric in self.metrics
        }

    def _samples(self, texts: Sequence[str]) -> list[dict[str, str]]:
        """Return sample translations, spread evenly over the set."""
        count = min(self.samples, len(texts))
        samples = []
        for number in range(count):
            index = number * len(texts) // count
            segment = self.segments[index]
            texts_of_sample = {"source": segment.source, "reference": segment.references[0]}
            samples.append({"id": segment.id, **texts_of_sample, "translation": texts[index]})
        return samples

    def signatures(self) -> dict[str, str]:
        """Return metric -> signature."""
        counts = {len(segment.references) for segment in self.segments}
        references = counts.pop() if len(counts) == 1 else -1  # -1: their number varies
        return {metric.name: metric.signature(references if metric.needs_references else 0) for metric in self.metrics}


def dev_set_of(config: TrainConfig) -> tuple[DevSet | None, Drops]:
    """Load the dev set of a training, if it has one; see `load_dev_set`."""
    return (None, Drops()) if config.dev is None else load_dev_set(config.dev)


def load_dev_set(config: DevConfig) -> tuple[DevSet, Drops]:
    """Read a dev set and load its metrics; also return reason -> count of dropped segments.

    Raises:
        UserError: a file is missing or empty, a segment has no reference, a metric cannot be loaded, or the engine is
            not installed.
    """
    check_engine(config.engine, decodings=[config.decoding])
    drops = Drops()
    segments = tuple(read_corpus(config, drops))
    if not segments:
        raise UserError(f"train.dev.source: {config.source} has no source to translate")
    for segment in segments:
        if not segment.references:
            raise UserError(
                f"train.dev: segment {segment.id} of {config.source} has no reference, and a dev set "
                "needs one for every segment"
            )
    assert config.tgt_lang is not None  # the section checks it
    metrics = [load_metric(spec, config.tgt_lang, config.comet) for spec in config.metrics]
    check_mbr(config.decoding, config.tgt_lang)
    return DevSet(segments, tuple(metrics), config.decoding, config.samples, config.engine), drops
