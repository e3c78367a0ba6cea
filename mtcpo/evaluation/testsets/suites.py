"""Suites: lists of test sets, with metrics and decoding settings.

A suite is a TOML file:

    metrics = ["bleu", "chrf"]
    test_sets = ["wmt22:de-en"]       # sacreBLEU's names, or names in the folder of --test-set-dir

    [decoding]                        # optional; the command line and the recipe override it
    num_beams = 5

    [[sets]]                          # files; paths are relative to the suite's file
    name = "mine"
    source = "mine.en"
    references = ["mine.de"]
    src_lang = "en"
    tgt_lang = "de"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationInfo, field_validator

from mtcpo.core.config import Config, PathOrName, as_value_error, load_section, read_toml
from mtcpo.core.errors import UserError, nearest
from mtcpo.core.resources import resource_tomls
from mtcpo.evaluation.testsets.loading import load_local_set, load_test_set
from mtcpo.evaluation.testsets.published import RELEASES, languages_of
from mtcpo.evaluation.testsets.sacrebleu import known_sets
from mtcpo.evaluation.testsets.testset import TestSet, TestSetConfig, parse_spec
from mtcpo.metrics.config import MetricSpec
from mtcpo.metrics.registry import code_path, metric_kind
from mtcpo.translation.config import TranslateConfig, require_one_output


def _resolve_suite(value: Any, info: ValidationInfo) -> Any:
    """Make the path of a suite file absolute; leave names of suites and test sets alone."""
    is_file = isinstance(value, str) and value.endswith(".toml")
    return TypeAdapter(PathOrName).validate_python(value, context=info.context) if is_file else value


SuiteSpec = Annotated[str, BeforeValidator(_resolve_suite)]
"""What `--suite` takes: the name of a shipped suite, a .toml file, or a test set such as wmt22:de-en."""


class SuiteConfig(Config):
    """Test sets that are evaluated together."""

    metrics: tuple[MetricSpec, ...] = Field((), description="Metrics; at least one")
    decoding: TranslateConfig | None = Field(None, description="Decoding settings of models; None: the defaults")
    test_sets: tuple[str, ...] = Field((), description="Test sets by sacreBLEU's names, for example wmt22:de-en")
    sets: tuple[TestSetConfig, ...] = Field((), description="Test sets from files")

    @field_validator("metrics", mode="before")
    @classmethod
    def _without_code(cls, metrics: Any) -> Any:
        """Refuse custom code even with --allow-code: suites are shared, and the flag is for the user's own code."""
        for spec in metrics if isinstance(metrics, (list, tuple)) else ():
            if isinstance(spec, str) and code_path(spec) is not None:
                raise ValueError(f"{spec} is custom Python code, which a suite does not run; give it as --metric")
        return metrics

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        # Checked here, because metrics are loaded only after the test sets were downloaded.
        with as_value_error():
            for spec in metrics:
                metric_kind(spec)
        return metrics


def load_suite(spec: str, test_set_dir: Path | None = None, submitted: bool = False) -> list[TestSet]:
    """Load what `--suite` names: a shipped suite (`demo`), a file (`x.toml`) or one test set (`wmt22:de-en`).

    Raises:
        UserError: the suite or test set is unknown, not available, or damaged.
    """
    if _is_test_set(spec):
        return [load_test_set(spec, test_set_dir, submitted)]
    suite = read_suite(spec)
    test_sets = [load_test_set(name, test_set_dir, submitted) for name in suite.test_sets]
    test_sets += map(load_local_set, suite.sets)
    return [replace(test_set, metrics=suite.metrics, decoding=suite.decoding) for test_set in test_sets]


def load_test_sets(
    suites: Sequence[str], sets: Sequence[TestSetConfig], test_set_dir: Path | None = None, submitted: bool = False
) -> list[TestSet]:
    """Load all test sets of suites and files.

    Raises:
        UserError: as `load_suite`; no test set at all; or two with the same name and language pair.
    """
    test_sets: list[TestSet] = []
    for spec in suites:
        test_sets += load_suite(spec, test_set_dir, submitted)
    test_sets += map(load_local_set, sets)
    if not test_sets:
        raise UserError("no test set to evaluate on; name one, for example --suite wmt22:de-en")
    # Both would be written to the same folder of translations/.
    seen: set[tuple[str, str]] = set()
    for test_set in test_sets:
        if (test_set.name, test_set.pair) in seen:
            raise UserError(f"two test sets are named {test_set.name} {test_set.pair}; give it once, or rename one")
        seen.add((test_set.name, test_set.pair))
    return test_sets


def name_test_sets(suites: Sequence[str], sets: Sequence[TestSetConfig]) -> list[tuple[str, str]]:
    """Return (name, language pair) of each test set that `load_test_sets` would load, without reading it."""
    names: list[tuple[str, str]] = []
    for text in suites:
        if _is_test_set(text):
            names.append(_name_of_spec(text))
        else:
            suite = read_suite(text)
            names += map(_name_of_spec, suite.test_sets)
            names += map(_name_of_config, suite.sets)
    return [*names, *map(_name_of_config, sets)]


def _name_of_spec(text: str) -> tuple[str, str]:
    spec = parse_spec(text)
    return spec.name, "-".join(languages_of(spec))


def _name_of_config(config: TestSetConfig) -> tuple[str, str]:
    return config.name, f"{config.src_lang}-{config.tgt_lang}"


def decoding_of(test_set: TestSet, given: TranslateConfig) -> TranslateConfig:
    """Return the decoding settings for a test set: its suite's, overridden by those that were set explicitly.

    Raises:
        UserError: they are invalid together, or leave several candidates of a source.
    """
    decoding = _overridden(test_set.decoding, given)
    require_one_output(decoding, "a test set")
    return decoding


def _overridden(of_suite: TranslateConfig | None, given: TranslateConfig) -> TranslateConfig:
    if of_suite is None:
        return given
    # Without unset fields, so that a default on one side does not override a setting on the other.
    suite, explicit = (config.model_dump(exclude_unset=True) for config in (of_suite, given))
    # Custom code as the utility of `mbr` was allowed when the settings were read.
    return load_section(TranslateConfig, suite | explicit, "decoding", allow_code=True)


def _is_test_set(spec: str) -> bool:
    # The path of a suite file may contain a colon.
    return ":" in spec and not spec.endswith(".toml")


def read_suite(spec: str) -> SuiteConfig:
    """Read a suite's TOML: a path that ends in .toml, or the name of a shipped suite.

    Raises:
        UserError: unknown suite, no test set, no metric, or an invalid field.
    """
    path = Path(spec) if spec.endswith(".toml") else _shipped_suite(spec)
    suite = load_section(SuiteConfig, read_toml(path), str(path), base=path.resolve().parent)
    if not suite.test_sets and not suite.sets:
        raise UserError(f"suite {spec}: no test set in it; add test_sets = [...] or a [[sets]] table")
    if not suite.metrics:
        raise UserError(f'suite {spec}: no metric in it; add one, for example metrics = ["bleu", "chrf"]')
    return suite


def _shipped_suite(name: str) -> Path:
    suites = resource_tomls("eval/suites")
    if name in suites:
        return suites[name]
    sacrebleu_sets = known_sets()
    if name in sacrebleu_sets:  # a test set without its language pair
        pairs = sorted(sacrebleu_sets[name].langpairs)
        raise UserError(f"suite {name!r}: add the language pair, as in {name}:{pairs[0]}; it has {', '.join(pairs)}")
    guess = nearest(name, [*suites, *sacrebleu_sets, *RELEASES])
    raise UserError(
        f"unknown suite {name!r}{guess}; choose from {', '.join(sorted(suites))}, a test set such as wmt22:de-en, "
        "or a file that ends in .toml"
    )
