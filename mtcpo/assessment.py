"""`mtcpo evaluate`: test sets loaded, translated where a model is given, scored, tested, and put on a page."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtcpo.evaluation import (
    EvaluateConfig,
    Evaluation,
    evaluate_outputs,
    load_metrics_for,
    read_outputs,
)
from mtcpo.files import sha256_of
from mtcpo.metrics.contract import open_models
from mtcpo.provenance import provenance
from mtcpo.suites import decoding_of, load_test_sets
from mtcpo.testsets import TestSet
from mtcpo.translation import TranslateConfig


def assess_files(config: EvaluateConfig, files: Mapping[str, Path], folder: Path | None = None) -> list[Evaluation]:
    """Score files of systems' outputs, one translation a line, on the test sets of a configuration.

    folder: where the evaluation goes; scores of models are kept there.

    Raises:
        UserError: as the loading of test sets, metrics and outputs; and as `evaluate_outputs`.
    """
    test_sets = _load(config)
    metrics = load_metrics_for(test_sets, config, folder)
    return [
        evaluate_outputs(test_set, read_outputs(files.items(), test_set), loaded, config)
        for test_set, loaded in zip(test_sets, metrics, strict=True)
    ]


def assess_models(
    config: EvaluateConfig, models: Mapping[str, str], decoding: TranslateConfig, dtype: Any, prompt: str | None,
    folder: Path | None = None,
) -> list[Evaluation]:  # fmt: skip
    """Translate the test sets of a configuration with models (name -> path), then score; folder as in `assess_files`.

    Raises:
        UserError: as `assess_files`, and where a model cannot be loaded.
    """
    test_sets = _load(config)
    metrics = load_metrics_for(test_sets, config, folder)
    open_models({id(metric): metric for of_set in metrics for metric in of_set}.values())
    outputs = _translate(test_sets, models, decoding, dtype, prompt)
    return [
        evaluate_outputs(test_set, {name: texts[number] for name, texts in outputs.items()}, loaded, config)
        for number, (test_set, loaded) in enumerate(zip(test_sets, metrics, strict=True))
    ]


def _load(config: EvaluateConfig) -> list[TestSet]:
    folder = None if config.test_set_dir is None else Path(config.test_set_dir)
    return load_test_sets(config.suites, config.sets, folder, config.submitted)


def _translate(
    test_sets: Sequence[TestSet], models: Mapping[str, str], decoding: TranslateConfig, dtype: Any, prompt: str | None
) -> dict[str, list[list[str]]]:
    """Translate every test set with every model: system -> texts of each test set."""
    from mtcpo.translation import translate_texts
    from mtcpo.translation.generate import open_engine

    total, found = sum(len(test_set.segments) for test_set in test_sets), {}
    for name, path in models.items():
        with open_engine(path, name, dtype, prompt, total) as engine:
            found[name] = [translate_texts(engine, one.segments, decoding_of(one, decoding)) for one in test_sets]
    return found


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
