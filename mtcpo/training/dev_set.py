"""The dev set of a training run: translated at every evaluation by all processes in shares, and scored by the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from mtcpo.core.errors import UserError
from mtcpo.data.corpora import Drops, read_corpus
from mtcpo.data.records import Segment
from mtcpo.metrics.base import Metric
from mtcpo.metrics.registry import load_metric
from mtcpo.models.loading import LoadedModel
from mtcpo.training.config import DevConfig, TrainConfig
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.generate import GenerateEngine
from mtcpo.translation.translate import translate_texts


@dataclass(frozen=True, slots=True)
class DevSet:
    """Segments with references, the metrics to score their translations by, and how they are translated.

    samples: how many translations `evaluate` returns as examples, spread evenly over the set.
    """

    segments: tuple[Segment, ...]
    metrics: tuple[Metric, ...]
    decoding: TranslateConfig
    samples: int = 3

    def evaluate(self, loaded: LoadedModel, accelerator: Any) -> tuple[dict[str, float], list[dict[str, str]]]:
        """Return the corpus scores by name of metric, and some translations; the same in every process.

        The model, its mode and the random generators are left as they were.
        """
        texts = self._translate(loaded, accelerator)
        outcome: list[Any] = [None]
        if accelerator.is_main_process:
            try:
                outcome = [self.score(texts)]
            except UserError as error:  # the others wait for what the first one found
                outcome = [error]
        broadcast_object_list(outcome)
        if isinstance(outcome[0], UserError):
            raise outcome[0]
        return outcome[0], self._samples(texts)

    def _translate(self, loaded: LoadedModel, accelerator: Any) -> list[str]:
        """Return the translation of every segment; each process makes every n-th, so that shares are alike."""
        count, step = len(self.segments), accelerator.num_processes
        # As many in each, some twice if need be: where weights are in shares, none can go on without the others.
        numbers = [number % count for number in range(accelerator.process_index, -(-count // step) * step, step)]
        share = translate_texts(GenerateEngine(loaded, "dev"), [self.segments[n] for n in numbers], self.decoding)
        return [text for _, text in sorted(dict(gather_object(list(zip(numbers, share, strict=True)))).items())]

    def score(self, texts: Sequence[str]) -> dict[str, float]:
        """Return the corpus scores of the translations of all segments."""
        return {
            metric.name: float(metric.corpus_score(metric.statistics(texts, self.segments).sum(axis=0)))
            for metric in self.metrics
        }

    def _samples(self, texts: Sequence[str]) -> list[dict[str, str]]:
        count = min(self.samples, len(texts))
        return [
            {"id": segment.id, "source": segment.source, "reference": segment.references[0], "translation": text}
            for segment, text in (
                (self.segments[i], texts[i]) for i in (number * len(texts) // count for number in range(count))
            )
        ]

    def signatures(self) -> dict[str, str]:
        """Return what a reader needs to compute the scores again, by name of metric."""
        counts = {len(segment.references) for segment in self.segments}
        references = counts.pop() if len(counts) == 1 else -1
        return {metric.name: metric.signature(references if metric.needs_references else 0) for metric in self.metrics}


def dev_set_of(config: TrainConfig) -> tuple[DevSet | None, Drops]:
    """Return the dev set of a training's settings, if any, as `load_dev_set` does."""
    return (None, Drops()) if config.dev is None else load_dev_set(config.dev)


def load_dev_set(config: DevConfig) -> tuple[DevSet, Drops]:
    """Read a dev set and load its metrics; also return what was dropped of it, by reason.

    Raises:
        UserError: a file is missing, nothing is in it, a segment has no reference, or a metric cannot be loaded.
    """
    drops = Drops()
    segments = tuple(read_corpus(config, drops))
    if not segments:
        raise UserError(f"train.dev.source: {config.source} has no source to translate")
    bare = next((segment.id for segment in segments if not segment.references), None)
    if bare is not None:
        raise UserError(f"train.dev: segment {bare} of {config.source} has no reference, and a dev set needs them")
    assert config.tgt_lang is not None  # the section checks it
    metrics = [load_metric(spec, config.tgt_lang, config.comet) for spec in config.metrics]
    return DevSet(segments, tuple(metrics), config.decoding, config.samples), drops
