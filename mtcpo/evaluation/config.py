"""Settings of an evaluation."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from mtcpo.core.config import Config, PathOrName
from mtcpo.evaluation.testsets.suites import SuiteSpec
from mtcpo.evaluation.testsets.testset import TestSetConfig
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.config import MetricSpec
from mtcpo.translation.config import TranslateConfig, with_comet_for_mbr

DEFAULT_METRICS = ("bleu", "chrf")
"""For commands and suites that name no metric: fast, with different blind spots. TER would take ten times as long as
both together."""


class EvaluateConfig(Config):
    """Which test sets and metrics, and how differences are tested."""

    suites: tuple[SuiteSpec, ...] = Field((), description="Shipped suites, suite files, or sacreBLEU's wmt22:de-en")
    sets: tuple[TestSetConfig, ...] = Field((), description="Your own test sets, from files")
    test_set_dir: PathOrName | None = Field(
        None, description="Folder with test sets as WMT, FLORES-200 or Multi30k publish them"
    )
    submitted: bool = Field(False, description="Also score the systems submitted to the shared task")
    metrics: tuple[MetricSpec, ...] | None = Field(
        None, min_length=1, description="Metrics, as in --metric; default: the suite's, else bleu and chrf"
    )
    comet: CometConfig = Field(CometConfig(), description="How COMET models are run")
    score_cache: PathOrName | None = Field(
        None, description="Cache file for scores of neural metrics; default: scores.sqlite3 in the output folder"
    )
    each_reference: bool = Field(False, description="Also score against each reference alone: bleu-A, bleu-B, ...")
    baseline: str | None = Field(None, description="System to compare the others with; default: the first")
    resamples: int = Field(1000, ge=1, description="Bootstrap resamples, and trials of approximate randomization")
    seed: int = Field(12345, ge=0, description="Seed of both tests; sacreBLEU's default is 12345")


class RunEvaluateConfig(EvaluateConfig):
    """How a run is evaluated, and how its test sets are translated."""

    decoding: TranslateConfig = TranslateConfig()

    @model_validator(mode="before")
    @classmethod
    def _share_comet(cls, values: Any) -> Any:
        return with_comet_for_mbr(values)
