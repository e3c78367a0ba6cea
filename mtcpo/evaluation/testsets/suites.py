"""Suites: which test sets, by what measured, how translated.

A suite is a TOML file:

    metrics = ["bleu", "chrf"]
    test_sets = ["wmt22:de-en"]       # by sacreBLEU's names, or in the folder of --test-set-dir

    [decoding]                        # optional; what the command line or the recipe says counts more
    num_beams = 5

    [[sets]]                          # files; relative paths start at the suite
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
from mtcpo.evaluation.testsets.published import RELEASES, languages_of, load_from_folder, where_to_put
from mtcpo.evaluation.testsets.sacrebleu import known_sets, load_from_sacrebleu
from mtcpo.evaluation.testsets.testset import TestSet, TestSetConfig, load_local_set, parse_spec
from mtcpo.metrics.config import MetricSpec
from mtcpo.metrics.registry import metric_kind
from mtcpo.translation.config import TranslateConfig


def _resolve_suite(value: Any, info: ValidationInfo) -> Any:
    """Make the path of a suite file absolute; leave names of suites and test sets alone."""
    is_file = isinstance(value, str) and value.endswith(".toml")
    return TypeAdapter(PathOrName).validate_python(value, context=info.context) if is_file else value


SuiteSpec = Annotated[str, BeforeValidator(_resolve_suite)]
"""What `--suite` takes: a shipped suite, a file that ends in .toml, or a test set such as wmt22:de-en."""


class SuiteConfig(Config):
    """Test sets that are evaluated together."""

    metrics: tuple[MetricSpec, ...] = Field((), description="What is measured; at least one")
    decoding: TranslateConfig | None = Field(None, description="How a model translates; None: the default")
    test_sets: tuple[str, ...] = Field((), description="By sacreBLEU's names, for example wmt22:de-en")
    sets: tuple[TestSetConfig, ...] = Field((), description="Test sets in files")

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        with as_value_error():
            for spec in metrics:
                metric_kind(spec)
        return metrics


def load_suite(spec: str, test_set_dir: Path | None = None, submitted: bool = False) -> list[TestSet]:
    """Load what `--suite` names: a shipped suite (`demo`), a file (`x.toml`) or one test set (`wmt22:de-en`).

    Raises:
        UserError: unknown, not to be had, or damaged.
    """
    if _is_test_set(spec):
        return [load_test_set(spec, test_set_dir, submitted)]
    suite = read_suite(spec)
    loaded = [load_test_set(name, test_set_dir, submitted) for name in suite.test_sets]
    loaded += [load_local_set(config) for config in suite.sets]
    return [replace(test_set, metrics=suite.metrics, decoding=suite.decoding) for test_set in loaded]


def load_test_sets(
    suites: Sequence[str], sets: Sequence[TestSetConfig], test_set_dir: Path | None = None, submitted: bool = False
) -> list[TestSet]:
    """Load all test sets of suites and files.

    Raises:
        UserError: as `load_suite`; none at all; or two of one name and language pair.
    """
    loaded = [test_set for spec in suites for test_set in load_suite(spec, test_set_dir, submitted)]
    loaded += [load_local_set(config) for config in sets]
    if not loaded:
        raise UserError("no test set to evaluate on; name one, for example --suite wmt22:de-en")
    seen: set[tuple[str, str]] = set()
    for test_set in loaded:
        if (test_set.name, test_set.pair) in seen:
            raise UserError(f"two test sets are {test_set.name} {test_set.pair}; name it once, or rename one")
        seen.add((test_set.name, test_set.pair))
    return loaded


def name_test_sets(suites: Sequence[str], sets: Sequence[TestSetConfig]) -> list[tuple[str, str]]:
    """Return (name, language pair) of what `load_test_sets` would load, without needing the text."""
    named: list[tuple[str, str]] = []
    for text in suites:
        suite = None if _is_test_set(text) else read_suite(text)
        specs = [parse_spec(name) for name in ([text] if suite is None else suite.test_sets)]
        named += [(spec.name, "-".join(languages_of(spec))) for spec in specs]
        named += [(config.name, f"{config.src_lang}-{config.tgt_lang}") for config in (suite.sets if suite else ())]
    return named + [(config.name, f"{config.src_lang}-{config.tgt_lang}") for config in sets]


def decoding_of(test_set: TestSet, given: TranslateConfig) -> TranslateConfig:
    """Return how a test set is translated: as its suite says, but for what was given explicitly."""
    if test_set.decoding is None:
        return given
    suite, explicit = (config.model_dump(exclude_unset=True) for config in (test_set.decoding, given))
    return TranslateConfig(**(suite | explicit))


def _is_test_set(spec: str) -> bool:
    return ":" in spec and not spec.endswith(".toml")


def read_suite(spec: str) -> SuiteConfig:
    """Read a suite's TOML: a path that ends in .toml, or the name of a shipped suite.

    Raises:
        UserError: unknown, without a test set, without a metric, or with a mistake in it.
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
    known = known_sets()
    if name in known:
        pairs = sorted(known[name].langpairs)
        raise UserError(f"suite {name!r}: add the language pair, as in {name}:{pairs[0]}; it has {', '.join(pairs)}")
    guess = nearest(name, [*suites, *known, *RELEASES])
    raise UserError(
        f"unknown suite {name!r}{guess}; choose from {', '.join(sorted(suites))}, a test set such as wmt22:de-en, "
        "or a file that ends in .toml"
    )


def load_test_set(text: str, test_set_dir: Path | None = None, submitted: bool = False) -> TestSet:
    """Load `SUITE:SRC-TGT`, or `SUITE:SRC-TGT:REF,REF` with references by name, for example `wmt22:de-en:A,B`.

    Without `test_set_dir` the names are sacreBLEU's, from its cache or by its download; with it, only that folder
    is looked at. Without names of references, those that sacreBLEU takes for this test set are used, else all.
    submitted: with the outputs of the systems that took part.

    Raises:
        UserError: unknown name, pair or reference (with the nearest, or those that are there), not to be had
            (with what to place where), damaged, or files of unequal length.
    """
    spec = parse_spec(text)
    if test_set_dir is not None:
        return load_from_folder(test_set_dir, spec, submitted)
    if spec.suite in RELEASES and spec.suite not in known_sets():
        raise UserError(
            f"test set {text}: sacreBLEU cannot fetch it; get it from {RELEASES[spec.suite].home} and pass "
            f"--test-set-dir DIR with {where_to_put(spec)}"
        )
    return load_from_sacrebleu(spec, where_to_put(spec), submitted)
