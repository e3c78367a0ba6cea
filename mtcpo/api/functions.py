"""`build_preferences` and `evaluate` for notebooks, built from the same functions as the commands."""

from __future__ import annotations

import html
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.config import CorpusConfig, SourceConfig
from mtcpo.data.corpora import Drops, read_corpus
from mtcpo.data.file_formats.registry import read_row_file
from mtcpo.data.names import check_system_name
from mtcpo.evaluation.config import RunEvaluateConfig
from mtcpo.evaluation.document import EvaluationDocument
from mtcpo.evaluation.results import to_document, write_evaluation
from mtcpo.evaluation.systems import GivenOutputs, System, TranslationModel, evaluate_systems, load_configured_sets
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.base import NeuralMetric
from mtcpo.models.config import EngineName, ModelOptions, TranslationDType
from mtcpo.models.families import Family, load_family
from mtcpo.preferences.build import PrefsConfig
from mtcpo.preferences.build import build_preferences as write_preferences
from mtcpo.report.terminal_table import print_table
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.base import Engine, Job
from mtcpo.translation.engines.registry import open_engine

if TYPE_CHECKING:
    from mtcpo.models.loading import LoadedModel

TABLE_WIDTH = 160
"""Maximum line length of a printed evaluation table, in characters."""

Settings = TypeVar("Settings", bound=SourceConfig)

Source = str | Path | Iterable[Any]
"""A file, a data set's directory or hub name, or rows in memory: `datasets.Dataset`, a list of dicts or records."""

MetricChoice = str | NeuralMetric | Callable[..., Any]
"""A metric: its name as in --metric, a function (sources, hypotheses, references) -> scores, or an object."""


def corpus_of(
    cls: type[Settings], dataset: Source, data: Mapping[str, Any] | None, where: str
) -> tuple[Settings, Iterable[Any] | None]:
    """Return the settings of a corpus or preference set, and its rows if they are in memory.

    data: fields of the section `cls`.

    Raises:
        UserError: a setting is invalid.
    """
    named = isinstance(dataset, (str, Path))
    # Rows in memory are called "row" in messages: row:17.
    config = load_section(cls, {"source": str(dataset) if named else "row", **(data or {})}, where)
    return config, None if isinstance(dataset, (str, Path)) else dataset


def log_drops(drops: Mapping[str, int], where: str) -> None:
    """Log what was dropped, as the commands do, with Python's logging."""
    for reason, number in sorted(drops.items()):
        logging.getLogger("mtcpo").warning("%s: %d dropped: %s", where, number, reason)


class Preferences(NamedTuple):
    """Triplets as a `datasets.Dataset`, and the content of prefs-report.json: pairs kept, and dropped by reason."""

    triplets: Any
    report: dict[str, Any]


def build_preferences(
    dataset: Source, metrics: Sequence[MetricChoice], *, data: Mapping[str, Any] | None = None, **settings: Any
) -> Preferences:
    """Build preference pairs from scored candidates, as `mtcpo build-prefs` does.

    Args:
        dataset: sources with references and candidates: records, or rows whose columns `data` names.
        metrics: as in --metric; also functions (sources, hypotheses, references) -> scores, and `NeuralMetric` objects.
        data: languages, columns and the like, as in [data] of a recipe.
        **settings: as in [prefs] of a recipe; `select` may be a function, see `mtcpo.preferences.user_selection`.

    Raises:
        UserError: as the command.
    """
    import datasets

    # A caller from Python may run code anyway.
    config = load_section(PrefsConfig, {"metrics": list(metrics), **settings}, "build_preferences", allow_code=True)
    corpus, items = corpus_of(CorpusConfig, dataset, data, "build_preferences: data")
    drops = Drops()
    with TemporaryDirectory() as folder:  # through a file, like the command, for identical results
        output = Path(folder) / "prefs.jsonl"
        report = write_preferences(read_corpus(corpus, drops, items=items), config, output, drops=drops)
        triplets = datasets.Dataset.from_list([row for _, row in read_row_file(output)])
    return Preferences(triplets, report.to_json())


class EvaluationResult(dict[str, Any]):
    """The content of evaluation.json as a dict; printed as a table."""

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        # From the current content: a user may have changed it.
        document = EvaluationDocument.from_json(self, "evaluate")
        print_table(document, Console(file=text, width=TABLE_WIDTH, highlight=False))
        return text.getvalue()

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return f"<pre>{html.escape(str(self))}</pre>"


def evaluate(
    systems: Any,
    dataset: Source | None = None,
    metrics: Sequence[MetricChoice] | None = None,
    baseline: str | None = None,
    *,
    suites: str | Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    prompt: str | None = None,
    family: Family | str | None = None,
    allow_code: bool = False,
    engine: EngineName = "auto",
    dtype: TranslationDType = "auto",
    output_dir: str | Path | None = None,
    **settings: Any,
) -> EvaluationResult:
    """Score systems on test sets, with intervals and significance, as `mtcpo evaluate` does.

    Args:
        systems: name -> system, or a single system. A system is a list of outputs, or a model to translate with: its
            name or directory, a trainer, or (model, tokenizer).
        dataset: one test set, sources with references: rows in memory, a file, or a data set. A string that does not
            name a file is taken for a suite, as in `suites`.
        metrics: as in `build_preferences`; default: the suite's, else bleu and chrf.
        baseline: name of the system with which the others are compared; default: the first.
        suites: suites or test sets by name, as in --suite: "wmt22:de-en". Either these or `dataset` is needed.
        data: languages, columns and the like of `dataset`, as in [data] of a recipe.
        prompt: a template that replaces the family's, for models given by name.
        family: as in `PreferenceTrainer`.
        allow_code: run Python code that a model's directory brings; without it such a model is refused.
        engine: what translates, as in --engine; for models in memory "auto" is transformers.
        dtype: precision of models given by name, as in --dtype.
        output_dir: folder for evaluation.json and the translations; default: they are not written.
        **settings: as in [evaluate] of a recipe: decoding, resamples, seed, test_set_dir.

    Raises:
        UserError: as the command.
    """
    config = _read_settings(metrics, baseline, settings)
    test_sets = _load_test_sets(dataset, suites, data, config)
    options = ModelOptions(prompt, load_family(family, "evaluate: family"), allow_code, engine)
    named = systems if isinstance(systems, Mapping) else {_name_of(systems): systems}
    evaluated = {}
    for name, system in named.items():
        evaluated[name] = _system(name, system, len(test_sets), config.decoding, dtype, options)
    folder = None if output_dir is None else Path(output_dir)
    evaluations = evaluate_systems(test_sets, evaluated, config, folder)
    document = to_document(evaluations) if folder is None else write_evaluation(folder, evaluations)
    return EvaluationResult(document.to_json())


def _read_settings(
    metrics: Sequence[MetricChoice] | None, baseline: str | None, settings: Mapping[str, Any]
) -> RunEvaluateConfig:
    values = {"metrics": metrics, "baseline": baseline, **settings}
    # None means not given, so that the section's defaults apply.
    given = {key: value for key, value in values.items() if value is not None}
    return load_section(RunEvaluateConfig, given, "evaluate", allow_code=True)


def _name_of(system: Any) -> str:
    return check_system_name(Path(system).resolve().name) if isinstance(system, (str, Path)) else "system"


# --- test sets --------------------------------------------------------------------------------------------------------


def _load_test_sets(
    dataset: Source | None, suites: str | Sequence[str], data: Mapping[str, Any] | None, config: RunEvaluateConfig
) -> Sequence[TestSet]:
    """Load the test sets given to `evaluate`, by name or as a data set.

    Raises:
        UserError: neither was given, or both.
    """
    names = (suites,) if isinstance(suites, str) else tuple(suites)
    # A suite as second argument is still accepted; `suites` was added later.
    if isinstance(dataset, str) and not _is_data_file(dataset):
        names, dataset = (*names, dataset), None
    if bool(names) == (dataset is not None):
        raise UserError("evaluate: give either a data set or suites=...")
    if dataset is not None:
        return [_read_test_set(dataset, data)]
    return load_configured_sets(config.model_copy(update={"suites": names, "sets": ()}))


def _is_data_file(name: str) -> bool:
    # Not a folder: one called wmt22 must not hide the test set of that name. A .toml file is a suite.
    return Path(name).is_file() and not name.endswith(".toml")


def _read_test_set(dataset: Source, data: Mapping[str, Any] | None) -> TestSet:
    corpus, items = corpus_of(CorpusConfig, dataset, data, "evaluate: data")
    drops = Drops()
    # Empty segments are kept: outputs are aligned with segments by position.
    segments = tuple(read_corpus(corpus, drops, keep_empty=True, items=items))
    log_drops(drops, "evaluate")
    pairs = sorted({(segment.src_lang, segment.tgt_lang) for segment in segments})
    if len(pairs) > 1:
        names = ", ".join("-".join(pair) for pair in pairs)
        raise UserError(f"evaluate: the data set has several language pairs ({names}); evaluate one at a time")
    return TestSet("test", *pairs[0], segments, corpus.source)


# --- systems ----------------------------------------------------------------------------------------------------------


def _system(
    name: str, system: Any, test_sets: int, decoding: TranslateConfig, dtype: TranslationDType, options: ModelOptions
) -> System:
    """Return the system to evaluate: given outputs, or a model to translate with."""
    # A str is iterable too, but it is a model's name.
    texts = list(system) if isinstance(system, Iterable) and not isinstance(system, str) else []
    if texts and all(isinstance(text, str) for text in texts):
        if test_sets > 1:
            raise UserError(
                f"system {name!r}: a list of outputs belongs to one test set, but there are {test_sets}; give a model, "
                "or evaluate one test set at a time"
            )
        return GivenOutputs([texts])
    return TranslationModel(partial(_open_engine, name, system, dtype, options), decoding)


def _open_engine(
    name: str, system: Any, dtype: TranslationDType, options: ModelOptions, job: Job
) -> AbstractContextManager[Engine]:
    """Return the engine of a model that is named, or in memory."""
    model = str(system) if isinstance(system, (str, Path)) else _loaded_model(name, system, options)
    return open_engine(model, name, dtype, options, job)


def _loaded_model(name: str, system: Any, options: ModelOptions) -> LoadedModel:
    """Return a model in memory as a LoadedModel.

    Raises:
        UserError: it is not a model, trainer or (model, tokenizer).
    """
    from mtcpo.models.loading import LoadedModel, adopt_model
    from mtcpo.training.trainer import ExampleTrainer

    if isinstance(system, ExampleTrainer):
        return system.loaded
    if isinstance(system, LoadedModel):
        return system
    if isinstance(system, tuple) and len(system) == 2:
        return adopt_model(*system, options)
    raise UserError(
        f"system {name!r} is {type(system).__name__}; give texts, the name of a model, a trainer, or (model, tokenizer)"
    )
