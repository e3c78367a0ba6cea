"""`mtcpo evaluate`: test sets loaded, translated where a model is given, scored, tested, and put on a page."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from mtcpo.core.files import sha256_of
from mtcpo.core.provenance import provenance
from mtcpo.data.records import Segment
from mtcpo.data.rows import read_segments
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.document import Evaluation
from mtcpo.evaluation.evaluate import evaluate_outputs, load_metrics_for, read_outputs
from mtcpo.evaluation.testsets.suites import decoding_of, load_test_sets
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.translate import Engine, translate_texts, translate_to_file

KEPT = ".translations"
"""Where translations are kept until their evaluation is written."""


def assess_files(config: EvaluateConfig, files: Mapping[str, Path], folder: Path | None = None) -> list[Evaluation]:
    """Score files of systems' outputs, one translation a line, on the test sets of a configuration.

    folder: where the evaluation goes; scores of models are kept there.

    Raises:
        UserError: as the loading of test sets, metrics and outputs; and as `evaluate_outputs`.
    """
    test_sets = _load(config)
    outputs = [read_outputs(files.items(), test_set) for test_set in test_sets]
    metrics = load_metrics_for(test_sets, config, folder)
    return [evaluate_outputs(*of_set, config) for of_set in zip(test_sets, outputs, metrics, strict=True)]


def assess_models(
    config: EvaluateConfig, models: Mapping[str, str], decoding: TranslateConfig, dtype: Any, prompt: str | None,
    folder: Path | None = None,
) -> list[Evaluation]:  # fmt: skip
    """Translate the test sets of a configuration with models (name -> path), then score.

    folder: as in `assess_files`; translations are kept there too until `forget_translations`, so that a call that was
    interrupted goes on where it was.

    Raises:
        UserError: as `assess_files`, and where a model cannot be loaded.
    """
    test_sets = _load(config)
    metrics = load_metrics_for(test_sets, config, folder)
    for metric in chain.from_iterable(metrics):
        metric.open()
    outputs = _translate(test_sets, models, decoding, dtype, prompt, folder)
    return [
        evaluate_outputs(test_set, {name: texts[number] for name, texts in outputs.items()}, loaded, config)
        for number, (test_set, loaded) in enumerate(zip(test_sets, metrics, strict=True))
    ]


def _load(config: EvaluateConfig) -> list[TestSet]:
    folder = None if config.test_set_dir is None else Path(config.test_set_dir)
    return load_test_sets(config.suites, config.sets, folder, config.submitted)


def _translate(
    test_sets: Sequence[TestSet], models: Mapping[str, str], decoding: TranslateConfig, dtype: Any,
    prompt: str | None, folder: Path | None,
) -> dict[str, list[list[str]]]:  # fmt: skip
    """Translate every test set with every model: system -> texts of each test set."""
    from mtcpo.translation.engines import open_engine

    total, found = sum(len(test_set.segments) for test_set in test_sets), {}
    for name, path in models.items():
        with open_engine(path, name, dtype, prompt, total) as engine:
            found[name] = [_texts(engine, one.segments, decoding_of(one, decoding), folder) for one in test_sets]
    return found


def _texts(engine: Engine, segments: Sequence[Segment], decoding: TranslateConfig, folder: Path | None) -> list[str]:
    if folder is None:
        return translate_texts(engine, segments, decoding)
    bare = [replace(segment, candidates=()) for segment in segments]
    # The name holds all that the translations depend on, so what lies there under it is what would be made.
    what = [engine.name, decoding.model_dump_json(), *(repr(segment) for segment in bare)]
    digest = sha256("\n".join(what).encode()).hexdigest()
    path = folder / KEPT / f"{digest[:16]}.jsonl"
    if not path.exists():
        translate_to_file(engine, bare, decoding, path)
    return [segment.candidates[0].text for segment in read_segments(path)]


def forget_translations(folder: Path) -> None:
    """Remove what `assess_models` kept for a call that might have been interrupted."""
    shutil.rmtree(folder / KEPT, ignore_errors=True)


def made_by(config: EvaluateConfig, inputs: Mapping[str, Path], started: float, gpus: bool) -> dict[str, Any]:
    """Return what made an evaluation: command, versions, hashes of the inputs, settings, seconds.

    started: what `time.perf_counter()` was at the start.
    """
    return {
        "command": ["mtcpo", *sys.argv[1:]],
        "settings": config.model_dump(mode="json", exclude_defaults=True),
        "inputs": {name: f"{path} {sha256_of(path)}" for name, path in inputs.items() if path.exists()},
        **provenance(gpus),
        "seconds": round(time.perf_counter() - started, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
