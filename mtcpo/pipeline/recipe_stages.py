"""The stages of a recipe, which hand files to each other inside a run directory.

Each function below returns one stage: its inputs and settings, its outputs, and the work itself, in an inner function
`run`. Settings and inputs are recorded in the stamp, so that a stage runs again when one of them changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtcpo.core.config import Config
from mtcpo.core.errors import counted
from mtcpo.core.files import complete_folder
from mtcpo.core.progress import Progress
from mtcpo.core.user_code import is_user_code, user_code_file
from mtcpo.data.corpora import Drops, read_corpus
from mtcpo.data.file_formats.registry import read_row_file, write_row_file
from mtcpo.data.records import Segment, triplet_from_json
from mtcpo.data.rows import read_segments
from mtcpo.evaluation.testsets.suites import decoding_of
from mtcpo.metrics.registry import code_files, metric_name
from mtcpo.pipeline.recipe import BASE, CONTROL, TUNED, Recipe
from mtcpo.pipeline.run_directory import (
    MODEL_FOLDERS,
    NEW_MODEL,
    RunDirectory,
    control_settings,
    corpus_files,
    evaluation_files,
    loss_files,
    utility_code,
)
from mtcpo.pipeline.stamp import Stage
from mtcpo.preferences.build import PROCESS_SETTINGS
from mtcpo.preferences.selections import needs_logprobs
from mtcpo.preferences.user_selection import selection_name
from mtcpo.training.config import TrainConfig
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.registry import look_ahead, open_engine

if TYPE_CHECKING:
    from mtcpo.models.prompts import TextExample


def make_stages(recipe: Recipe, run: Path, allow_code: bool = False) -> list[Stage]:
    """Return the stages of a recipe in a run directory, in order; arguments as of `run_recipe`."""
    folder = RunDirectory(recipe, run.resolve(), allow_code)
    stages = []
    if recipe.model.create is not None:
        stages.append(_create(folder))
    if recipe.sft is not None:
        stages.append(_sft(folder))
    if recipe.translate is not None:
        # Selection by confidence needs the model's log-probabilities, which only translation can add.
        logprobs = recipe.translate.logprobs or needs_logprobs(recipe.prefs.select)
        stages.append(_candidates(folder, recipe.translate.model_copy(update={"logprobs": logprobs})))
    stages += [_prefs(folder), _train(folder)]
    if control := control_settings(recipe):
        stages.append(_control(folder, control))
    for system, model in folder.systems.items():
        stages.append(_decode(folder, system, model))
    return [*stages, _evaluate(folder), _report(folder)]


def _stage(
    folder: RunDirectory,
    name: str,
    summary: str,
    settings: Iterable[Config | Mapping[str, Any] | list[str]],
    inputs: Iterable[str | Path],
    outputs: Iterable[str | Path],
    run: Callable[[bool], dict[str, Any]],
) -> Stage:
    """Return a stage. outputs: relative to the run directory."""
    as_json: list[Any] = []
    for section in settings:
        as_json.append(section.model_dump(mode="json") if isinstance(section, Config) else section)
    paths = tuple(folder.path / path for path in outputs)
    # The report only shows other stages' results: it is rebuilt without asking.
    return Stage(name, summary, as_json, tuple(map(str, inputs)), paths, run, follows=name == "report")


def _short_name(model: str) -> str:
    """Return the last part of a path; other names of models are short enough."""
    return Path(model).name if Path(model).is_absolute() else model


def _create(folder: RunDirectory) -> Stage:
    create, sft = folder.recipe.model.create, folder.recipe.sft
    assert create is not None
    # A recipe with [model.create] but without [sft] is refused when it is read.
    assert sft is not None

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.models.creation import create_model

        drops = Drops()
        # The vocabulary is trained on both sides of the corpus.
        sides = ((segment.source, *segment.references) for segment in read_corpus(sft.data, drops))
        with complete_folder(folder.path / NEW_MODEL) as new, Progress("creating the model", unit=""):
            create_model(create, chain.from_iterable(sides), new)
        return {"seed": create.seed, "dropped": dict(drops)}

    summary = f"a new {create.architecture} model with its own vocabulary"
    return _stage(folder, "create", summary, [create, sft.data], corpus_files(sft.data), [NEW_MODEL], run)


def _sft(folder: RunDirectory) -> Stage:
    sft = folder.recipe.sft
    assert sft is not None

    def run(overwrite: bool) -> dict[str, Any]:
        drops = Drops()
        texts = _reference_texts(read_corpus(sft.data, drops))
        return _run_training(folder, folder.start, texts, sft, BASE, overwrite, drops)

    summary = f"fine-tune {_short_name(folder.start)} on references"
    inputs = [*folder.model_files(folder.start), *corpus_files(sft.data), *evaluation_files(sft)]
    return _stage(folder, "sft", summary, [sft, _prompt(folder)], inputs, [MODEL_FOLDERS[BASE]], run)


def _candidates(folder: RunDirectory, translate: TranslateConfig) -> Stage:
    data, model = folder.recipe.data, folder.recipe.model
    output = folder.path / "candidates.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.translation.translate import translate_to_file

        drops = Drops()
        job, segments = look_ahead(read_corpus(data, drops), translate, data.take)
        with open_engine(folder.base, BASE, model.dtype, folder.model_options, job) as engine:
            figures = translate_to_file(engine, segments, translate, output, overwrite)
            label = engine.label
        return figures | {"dropped": dict(drops), "engine": label, "seed": translate.seed}

    candidates = counted(translate.outputs, "candidate")
    summary = f"{candidates} per source from {_short_name(folder.base)}, {translate.summary()}"
    inputs = [*folder.model_files(folder.base), *corpus_files(data), *utility_code(translate)]
    loading = _prompt(folder) | _loading(folder)
    return _stage(folder, "translate", summary, [translate, data, loading], inputs, [output], run)


def _prefs(folder: RunDirectory) -> Stage:
    prefs, data = folder.recipe.prefs, folder.recipe.data
    candidates = folder.path / "candidates.jsonl" if folder.recipe.translate is not None else None
    prefs_file, report_file = folder.path / "prefs.jsonl", folder.path / "prefs-report.json"
    scored_file = folder.path / "scored.jsonl"
    outputs = [prefs_file, report_file, scored_file, folder.path / "prefs-report.html"]

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.preferences.build import build_preferences
        from mtcpo.report.pairs_page import write_pair_page

        drops = Drops()
        segments = read_corpus(data, drops) if candidates is None else read_segments(candidates)
        report = build_preferences(segments, prefs, prefs_file, report_file, scored_file, drops)
        write_pair_page(report_file)
        notes = {"note": "; ".join(report.notes)} if report.notes else {}
        return {"segments": report.segments, "kept": report.kept, "dropped": report.dropped} | notes

    selection = selection_name(prefs.select)
    summary = f"triplets by {' + '.join(prefs.metrics)}, {selection}"
    # The number of processes and the score cache do not affect the pairs, but COMET's precision may.
    choice = prefs.model_dump(mode="json", exclude=PROCESS_SETTINGS) | {"comet.precision": prefs.comet.precision}
    # A custom selection or metric is an input too: when its code changes, the pairs are rebuilt.
    code = code_files(prefs.metrics) + ([user_code_file(selection)] if is_user_code(selection) else [])
    if candidates is None:
        return _stage(folder, "prefs", summary, [choice, data], [*corpus_files(data), *code], outputs, run)
    return _stage(folder, "prefs", summary, [choice], [candidates, *code], outputs, run)


def _train(folder: RunDirectory) -> Stage:
    train, prefs = folder.recipe.train, folder.path / "prefs.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.training.examples import pair_texts

        triplets = (triplet_from_json(row, where) for where, row in read_row_file(prefs))
        return _run_training(folder, folder.base, pair_texts(triplets), train, TUNED, overwrite)

    summary = f"{_short_name(folder.base)} with loss {train.loss}, beta {train.beta:g}, cpo_alpha {train.cpo_alpha:g}"
    inputs = [*folder.model_files(folder.base), str(prefs), *evaluation_files(train), *loss_files(train)]
    return _stage(folder, "train", summary, [train, _prompt(folder)], inputs, [MODEL_FOLDERS[TUNED]], run)


def _control(folder: RunDirectory, settings: TrainConfig) -> Stage:
    prefs, scored = folder.path / "prefs.jsonl", folder.path / "scored.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        # Only sources that preference training saw: otherwise the comparison would not be fair.
        kept = {row["id"] for _, row in read_row_file(prefs)}
        segments = (segment for segment in read_segments(scored) if segment.id in kept)
        return _run_training(folder, folder.base, _reference_texts(segments), settings, CONTROL, overwrite)

    # A gain over this system is due to the preferences, not to more training on the same sources.
    summary = "continued SFT on the references of the same sources, for as many steps"
    inputs = [*folder.model_files(folder.base), str(prefs), str(scored), *evaluation_files(settings)]
    return _stage(folder, "control", summary, [settings, _prompt(folder)], inputs, [MODEL_FOLDERS[CONTROL]], run)


def _decode(folder: RunDirectory, system: str, model: str) -> Stage:
    decoding, settings = folder.recipe.evaluate.decoding, folder.recipe.model
    outputs = folder.translations(f"{system}.txt")

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.evaluation.results import write_translations
        from mtcpo.evaluation.systems import translation_job
        from mtcpo.translation.decoding import incidents
        from mtcpo.translation.translate import translate_texts

        test_sets = folder.test_sets()
        job, counts = translation_job(test_sets, decoding), Counter[str]()
        with open_engine(model, system, settings.dtype, folder.model_options, job) as engine:
            for test_set, path in zip(test_sets, outputs, strict=True):
                texts = translate_texts(engine, test_set.segments, decoding_of(test_set, decoding), counts)
                write_translations(path, texts)
            return {"engine": engine.label, **incidents(counts), "seed": decoding.seed}

    summary = f"translate the test sets with {_short_name(model)}"
    inputs = [*folder.model_files(model), *folder.test_files(), *utility_code(decoding)]
    loading = _prompt(folder) | _loading(folder)
    return _stage(
        folder,
        f"decode {system}",
        summary,
        [decoding, loading, list(folder.recipe.evaluate.suites)],
        inputs,
        outputs,
        run,
    )


def _evaluate(folder: RunDirectory) -> Stage:
    evaluate = folder.recipe.evaluate
    files = {system: folder.translations(f"{system}.txt") for system in folder.systems}

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.evaluation.results import write_evaluation
        from mtcpo.evaluation.systems import OutputFiles, evaluate_systems

        selection_metrics = [metric_name(spec) for spec in folder.recipe.prefs.metrics]
        systems = {system: OutputFiles(paths, evaluate.decoding) for system, paths in files.items()}
        evaluations = evaluate_systems(folder.test_sets(), systems, evaluate, folder.path, selection_metrics)
        # Whether this stage may replace its outputs was decided before.
        write_evaluation(folder.path, evaluations, overwrite=True)
        return {"seed": evaluate.seed}

    names = ", ".join(evaluate.metrics) if evaluate.metrics else "metrics of the suites"
    summary = f"{names}, with significance tests against {evaluate.baseline or BASE}"
    inputs: list[str | Path] = [*chain.from_iterable(files.values()), *folder.test_files()]
    inputs += code_files(evaluate.metrics or ())
    # The selection metrics too: a gain on one of them is marked as weaker evidence.
    settings: list[Config | list[str]] = [evaluate, list(folder.recipe.prefs.metrics)]
    outputs: list[str | Path] = ["evaluation.json", *folder.translations("segments.jsonl")]
    return _stage(folder, "evaluate", summary, settings, inputs, outputs, run)


def _report(folder: RunDirectory) -> Stage:
    logs = {"sft": BASE, "cpo": TUNED, "control": CONTROL}
    if folder.recipe.sft is None:
        del logs["sft"]
    if folder.recipe.control is None:
        del logs["control"]
    files = {stage: folder.path / MODEL_FOLDERS[system] / "metrics.jsonl" for stage, system in logs.items()}

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.report.page import write_report

        write_row_file(folder.path / "metrics.jsonl", _rows_with_stage(files))
        write_report(folder.path)
        return {}

    inputs = [*files.values(), folder.path / "evaluation.json", folder.path / "prefs-report.json"]
    return _stage(
        folder,
        "report",
        "one page with scores, plots and translations",
        [],
        inputs,
        ["metrics.jsonl", "report.html"],
        run,
    )


def _rows_with_stage(files: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the training logs, each with its stage."""
    for stage, path in files.items():
        for _, row in read_row_file(path):
            yield {"stage": stage} | row


# --- what stages share ----------------------------------------------------------------------------------------------


def _run_training(
    folder: RunDirectory,
    model: str,
    texts: Iterable[TextExample],
    config: TrainConfig,
    system: str,
    overwrite: bool,
    drops: Drops | None = None,
) -> dict[str, Any]:
    """Train a system's model; return its figures.

    drops: counts what the reader of `texts` drops; added to training's drops once the texts have been read.
    """
    from mtcpo.training.arguments import DEFAULT_ARGS
    from mtcpo.training.train import train

    output = folder.path / MODEL_FOLDERS[system]
    origin = "references" if config.loss == "sft" else "prefs.jsonl"
    options = folder.model_options
    report = train(model, texts, config, output, options=options, origin=origin, overwrite=overwrite)
    dropped = Drops(report["dropped"]) + (drops or Drops())
    seed = (DEFAULT_ARGS | config.args)["seed"]
    return {
        "examples": report["examples"],
        "dropped": dict(dropped),
        "steps": report["steps"],
        "tokens": report["tokens"],
        "seed": seed,
    }


def _reference_texts(segments: Iterable[Segment]) -> Iterator[TextExample]:
    from mtcpo.training.examples import reference_texts

    return reference_texts(segments)


def _loading(folder: RunDirectory) -> dict[str, Any]:
    """Return the settings of [model] that the stages which translate depend on, besides `_prompt`."""
    model = folder.recipe.model
    # Only if it is set, as for the family.
    engine = {} if model.engine == "auto" else {"engine": model.engine}
    return {"dtype": model.dtype} | engine


def _prompt(folder: RunDirectory) -> dict[str, Any]:
    """Return the settings of [model] that a stage depends on; the model itself is one of its inputs."""
    model = folder.recipe.model
    # Only if it is set: otherwise runs from before this setting existed would count as changed.
    family = {} if model.family is None else {"family": model.family}
    return {"prompt": model.prompt} | family
