"""Evaluate systems on test sets: load the metrics, collect each system's translations, score them.

All of it happens in `evaluate_systems`. A system is anything that provides translations of test sets: outputs in
memory, files of outputs, or a model that translates.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from itertools import chain, product
from pathlib import Path
from typing import Any, Protocol

from mtcpo.core.errors import UserError, counted
from mtcpo.core.files import read_json, read_lines, sha256_of, write_json
from mtcpo.core.progress import detail, under_way
from mtcpo.core.provenance import provenance
from mtcpo.data.records import Segment
from mtcpo.data.rows import read_segments
from mtcpo.evaluation.config import DEFAULT_METRICS, EvaluateConfig
from mtcpo.evaluation.document import Decoding
from mtcpo.evaluation.evaluate import check_systems, evaluate_outputs
from mtcpo.evaluation.results import Evaluation
from mtcpo.evaluation.testsets.suites import decoding_of, load_test_sets
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.base import Metric
from mtcpo.metrics.registry import is_lexical, load_metric, metric_name
from mtcpo.metrics.score_cache import CACHE_FILE, CachedMetric, ScoreCache
from mtcpo.models.config import ModelOptions
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.decoding import incidents
from mtcpo.translation.engines.base import Engine, Job
from mtcpo.translation.engines.registry import open_engine
from mtcpo.translation.mbr import load_utility, open_mbr
from mtcpo.translation.translate import translate_texts, translate_to_file

LOG = logging.getLogger(__name__)

KEPT_TRANSLATIONS = ".translations"
"""Folder for a model's translations until their evaluation is written."""

MetricKey = tuple[str, str]
"""(spec, target language or "und"): test sets with the same key share a loaded metric."""

Outputs = list[list[str]]
"""[test set][segment] -> translation."""


class System(Protocol):
    """Anything that provides translations of test sets."""

    @property
    def decoding(self) -> TranslateConfig | None:
        """The settings with which mtcpo translated or will translate, overriding a suite's; None: unknown."""

    def outputs(self, test_sets: Sequence[TestSet]) -> Outputs:
        """Return the system's translations of each test set."""


@dataclass(frozen=True, slots=True)
class GivenOutputs:
    """A system whose translations of each test set are in memory."""

    texts: Outputs
    decoding: TranslateConfig | None = None

    def outputs(self, test_sets: Sequence[TestSet]) -> Outputs:
        """Return the texts."""
        return self.texts


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """A system whose translations are in files, one per line. paths: one file for each test set."""

    paths: Sequence[Path]
    decoding: TranslateConfig | None = None

    def outputs(self, test_sets: Sequence[TestSet]) -> Outputs:
        """Read the files.

        Raises:
            UserError: a file does not have as many lines as its test set has segments.
        """
        return [read_output(path, test_set) for path, test_set in zip(self.paths, test_sets, strict=True)]


@dataclass(slots=True)
class TranslationModel:
    """A model that translates the test sets.

    open: job -> context manager of an engine. decoding: explicit settings, which override a suite's. folder: keeps the
    translations until `forget_translations`, so that an interrupted call resumes. translated_with: label of the engine
    of the last call of `outputs`. counts: as of `Decoder`, in that call.
    """

    open: Callable[[Job], AbstractContextManager[Engine]]
    decoding: TranslateConfig
    folder: Path | None = None
    translated_with: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def outputs(self, test_sets: Sequence[TestSet]) -> Outputs:
        """Translate the test sets."""
        outputs = []
        self.counts.clear()
        with self.open(translation_job(test_sets, self.decoding)) as engine:
            for test_set in test_sets:
                decoding = decoding_of(test_set, self.decoding)
                outputs.append(_translate(engine, test_set.segments, decoding, self.folder, self.counts))
            self.translated_with = engine.label
        return outputs


def translation_job(test_sets: Sequence[TestSet], decoding: TranslateConfig) -> Job:
    """Return the job of translating test sets. decoding: as in `TranslationModel`."""
    segments = tuple(chain.from_iterable(test_set.segments for test_set in test_sets))
    decodings = [decoding_of(test_set, decoding) for test_set in test_sets]
    return Job(decodings, segments, len(segments))


def evaluate_systems(
    test_sets: Sequence[TestSet],
    systems: Mapping[str, System],
    config: EvaluateConfig,
    folder: Path | None = None,
    selection_metrics: Collection[str] = (),
) -> list[Evaluation]:
    """Score systems on test sets.

    Args:
        test_sets: The test sets.
        systems: Name -> system.
        config: Metrics, baseline, resamples and seed.
        folder: Folder of the evaluation; the score cache is there.
        selection_metrics: As in `evaluate_outputs`.

    Raises:
        UserError: as in loading metrics, as the systems, and as `evaluate_outputs`.
    """
    # Files first: a wrong number of lines shows at once, while translating may take hours.
    outputs: dict[str, Outputs] = {}
    models: dict[str, TranslationModel] = {}
    for name, system in systems.items():
        if isinstance(system, TranslationModel):
            models[name] = system
        else:
            outputs[name] = system.outputs(test_sets)
    metrics = load_metrics_for(test_sets, config, folder)
    # Missing references and an unknown baseline need no translations to be found.
    for test_set, metrics_of_set in zip(test_sets, metrics, strict=True):
        check_systems(test_set, systems.keys(), metrics_of_set, config.baseline)
    if models:
        # A checkpoint that cannot be loaded should stop the call before hours of translation, not after them.
        # Without models to run, it is loaded at the first score, or never if the cache has all scores.
        for metric in chain.from_iterable(metrics):
            metric.open()
        # The same for the metric that chooses among candidates; it stays loaded.
        for model, test_set in product(models.values(), test_sets):
            open_mbr(decoding_of(test_set, model.decoding), [test_set.tgt_lang])
    for name, model in models.items():
        outputs[name] = model.outputs(test_sets)
    engines = {name: model.translated_with for name, model in models.items()}
    counts = {name: incidents(model.counts) for name, model in models.items()}
    evaluations = []
    for index, test_set in enumerate(test_sets):
        # In the given order: without a configured baseline, the first system is the baseline.
        outputs_on_set = {name: outputs[name][index] for name in systems}
        decodings = describe_decodings(test_set, systems)
        evaluation = evaluate_outputs(test_set, outputs_on_set, metrics[index], config, selection_metrics, decodings)
        evaluations.append(replace(evaluation, engines=engines, decoding_counts=counts))
    return evaluations


def describe_decodings(test_set: TestSet, systems: Mapping[str, System]) -> dict[str, Decoding]:
    """Return, for each system that mtcpo translated, how its outputs on a test set were decoded."""
    decodings = {}
    for name, system in systems.items():
        if system.decoding is not None:
            config = decoding_of(test_set, system.decoding)
            described = {"search": config.describe_search(), "candidates": config.num_candidates}
            if config.mbr is not None:
                utility = load_utility(config, test_set.tgt_lang)
                described |= {"mbr": metric_name(config.mbr), "mbr_signature": utility.signature(1, sentence=True)}
            decodings[name] = Decoding.model_validate(described)
    return decodings


def evaluate_files(config: EvaluateConfig, files: Mapping[str, Path], folder: Path | None = None) -> list[Evaluation]:
    """Score files of systems' outputs (one translation per line) on the test sets of a configuration.

    folder: as in `evaluate_systems`.

    Raises:
        UserError: as `load_configured_sets` and `evaluate_systems`.
    """
    test_sets = load_configured_sets(config)
    systems = {name: OutputFiles([path] * len(test_sets)) for name, path in files.items()}
    return evaluate_systems(test_sets, systems, config, folder)


def evaluate_models(
    config: EvaluateConfig, models: Mapping[str, str], decoding: TranslateConfig, dtype: Any,
    options: ModelOptions, folder: Path | None = None,
) -> list[Evaluation]:  # fmt: skip
    """Translate the test sets of a configuration with models (name -> path or hub name), then score.

    folder: as in `evaluate_systems`, and in `TranslationModel`.

    Raises:
        UserError: as `evaluate_files`, or a model cannot be loaded.
    """
    systems: dict[str, System] = {}
    for name, model in models.items():
        systems[name] = TranslationModel(partial(open_engine, model, name, dtype, options), decoding, folder)
    return evaluate_systems(load_configured_sets(config), systems, config, folder)


def load_configured_sets(config: EvaluateConfig) -> list[TestSet]:
    """Load the test sets of a configuration.

    Raises:
        UserError: as `load_test_sets`.
    """
    folder = None if config.test_set_dir is None else Path(config.test_set_dir)
    return load_test_sets(config.suites, config.sets, folder, config.submitted)


def read_output(path: Path, test_set: TestSet) -> list[str]:
    """Read a system's output, one translation per line.

    Raises:
        UserError: the file does not have as many lines as the test set has segments.
    """
    texts = list(read_lines(path))
    if len(texts) != len(test_set.segments):
        raise UserError(
            f"{path}: {counted(len(texts), 'line')}, but {test_set.origin} has {len(test_set.segments)}; "
            "line n of one must translate line n of the other"
        )
    return texts


def metrics_of(config: EvaluateConfig, test_set: TestSet) -> tuple[str, ...]:
    """Return the metric specs for a test set: the configuration's, else its suite's, else the default."""
    return config.metrics or test_set.metrics or DEFAULT_METRICS


def load_metrics_for(
    test_sets: Sequence[TestSet], config: EvaluateConfig, folder: Path | None = None
) -> list[list[Metric]]:
    """Load the metrics of each test set; a neural metric is loaded only once.

    folder: as in `evaluate_systems`; the configuration may name another file for the score cache.

    Raises:
        UserError: an unknown name, a checkpoint that cannot be loaded, or a package that is not installed.
    """
    loaded: dict[MetricKey, Metric] = {}
    keys_by_set: list[list[MetricKey]] = []
    for test_set in test_sets:
        keys_by_set.append([])
        for spec in metrics_of(config, test_set):
            key = _metric_key(spec, test_set.tgt_lang)
            if key not in loaded:
                loaded[key] = load_metric(*key, config.comet)
            keys_by_set[-1].append(key)
    if not all(metric.is_lexical for metric in loaded.values()):
        # Only now, so that no empty cache is left behind if a checkpoint cannot be loaded.
        cache = _open_score_cache(config, folder)
        for key, metric in loaded.items():
            if not metric.is_lexical:
                loaded[key] = CachedMetric(metric, cache)
    return [[loaded[key] for key in keys] for keys in keys_by_set]


def _metric_key(spec: str, tgt_lang: str) -> MetricKey:
    """Return the key of a metric on a test set: only lexical metrics depend on the target language."""
    return spec, tgt_lang if is_lexical(spec) else "und"


def _open_score_cache(config: EvaluateConfig, folder: Path | None) -> ScoreCache:
    """Open the file that the configuration names, else the one in `folder`, else a cache in memory."""
    path = Path(":memory:")  # still useful: corpus scores, segment scores and error spans each ask for the same scores
    if config.score_cache:
        path = Path(config.score_cache)
    elif folder is not None:
        path = folder / CACHE_FILE
    cache = ScoreCache(path)
    detail(f"score cache: {path}")
    if cache.note:
        LOG.warning("mtcpo: %s", cache.note)
    return cache


def _translate(
    engine: Engine, segments: Sequence[Segment], decoding: TranslateConfig, folder: Path | None, counts: Counter[str]
) -> list[str]:
    if folder is None:
        return translate_texts(engine, segments, decoding, counts)
    # Without candidates: the model does not see them, so they must not change the hash below.
    bare = [replace(segment, candidates=()) for segment in segments]
    # The file name is a hash of everything that the translations depend on, so an existing file can be reused.
    fingerprint = [engine.name, decoding.model_dump_json(), *(repr(segment) for segment in bare)]
    digest = sha256("\n".join(fingerprint).encode()).hexdigest()
    path = folder / KEPT_TRANSLATIONS / f"{digest[:16]}.jsonl"
    figures = path.with_suffix(".json")
    # Written last: with it, the translations are complete.
    if figures.exists():
        under_way().skip(len(bare))
    else:
        write_json(figures, translate_to_file(engine, bare, decoding, path, overwrite=True))
    counts.update(read_json(figures))
    return [segment.candidates[0].text for segment in read_segments(path)]


def forget_translations(folder: Path) -> None:
    """Remove the translations that a `TranslationModel` kept in case of an interruption."""
    shutil.rmtree(folder / KEPT_TRANSLATIONS, ignore_errors=True)


def made_by(config: EvaluateConfig, inputs: Mapping[str, Path], started: float, gpus: bool) -> dict[str, Any]:
    """Return the provenance of an evaluation: command, versions, hashes of the inputs, settings, seconds.

    started: `time.perf_counter()` at the start. gpus: whether to name the GPUs, which imports torch.
    """
    hashes = {}
    for name, path in inputs.items():
        if path.exists():
            hashes[name] = f"{path} {sha256_of(path)}"
    return {
        "command": ["mtcpo", *sys.argv[1:]],
        "settings": config.model_dump(mode="json", exclude_defaults=True),
        "inputs": hashes,
        **provenance(gpus),
        "seconds": round(time.perf_counter() - started, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
