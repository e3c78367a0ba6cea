"""`mtcpo run`: a recipe as stages that hand files to each other inside a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtcpo.core.config import Config, to_toml
from mtcpo.core.errors import UserError
from mtcpo.core.files import complete_folder, write_text
from mtcpo.core.user_code import is_user_code, user_code_file
from mtcpo.data.corpora import Drops, read_corpus
from mtcpo.data.records import Segment, triplet_from_json
from mtcpo.data.row_files import read_row_file, write_row_file
from mtcpo.data.rows import read_segments
from mtcpo.evaluation.testsets.suites import decoding_of
from mtcpo.metrics.registry import code_files, metric_name
from mtcpo.pipeline.preflight import check_before_run
from mtcpo.pipeline.recipe import BASE, CONTROL, TUNED, Recipe
from mtcpo.pipeline.run_directory import (
    FOLDERS,
    NEW,
    RunDirectory,
    control_settings,
    corpus_files,
    evaluation_files,
    loss_files,
)
from mtcpo.pipeline.stages import STAMP_FILE, Stage, check_may_run, run_stages, unfinished
from mtcpo.preferences.build import PROCESS_SETTINGS
from mtcpo.preferences.selections import needs_logprobs
from mtcpo.preferences.user_selection import selection_name
from mtcpo.training.config import TrainConfig
from mtcpo.translation.config import TranslateConfig

if TYPE_CHECKING:
    from mtcpo.models.prompts import TextExample


def stages_of(recipe: Recipe, run: Path, allow_code: bool = False) -> list[Stage]:
    """Return the stages of a recipe in a run directory, in order.

    allow_code: whether code that a model's directory brings may run.
    """
    folder = RunDirectory(recipe, run.resolve(), allow_code)
    stages = []
    if recipe.model.create is not None:
        stages.append(_create(folder))
    if recipe.sft is not None:
        stages.append(_sft(folder))
    if recipe.translate is not None:
        # A selection may need what translating alone does not.
        logprobs = recipe.translate.logprobs or needs_logprobs(recipe.prefs.select)
        stages.append(_candidates(folder, recipe.translate.model_copy(update={"logprobs": logprobs})))
    stages += [_prefs(folder), _train(folder)]
    if control := control_settings(recipe):
        stages.append(_control(folder, control))
    stages += [_decode(folder, system, model) for system, model in folder.systems.items()]
    return [*stages, _evaluate(folder), _report(folder)]


def run_recipe(
    recipe: Recipe, folder: Path, overwrite: bool, say: Callable[[str], None], allow_code: bool = False
) -> Path:
    """Run what is not done yet of a recipe; return the report.

    allow_code: as in `stages_of`.

    Raises:
        UserError: outputs of other settings lie there and may not be overwritten, a later stage would find something
            missing, and all that the stages raise.
    """
    stages = stages_of(recipe, folder, allow_code)
    text, resolved = to_toml(recipe), folder / "recipe.toml"
    there = resolved.read_text(encoding="utf-8", errors="replace") if resolved.exists() else None
    if there not in (None, text) and not (folder / STAMP_FILE).exists() and not overwrite:
        raise UserError(f"{resolved} exists and is not of a run; choose another --output-dir, or pass --overwrite")
    check_may_run(stages, folder, overwrite)
    waiting = unfinished(stages, folder)
    if waiting:
        from mtcpo.core.progress import quiet_libraries

        quiet_libraries()
        check_before_run(RunDirectory(recipe, folder.resolve(), allow_code), waiting)
    if there != text:
        write_text(resolved, text)
    run_stages(stages, folder, overwrite, say)
    return folder / "report.html"


def _stage(
    folder: RunDirectory,
    name: str,
    what: str,
    settings: Iterable[Config | Mapping[str, Any] | list[str]],
    inputs: Iterable[str | Path],
    outputs: Iterable[str | Path],
    run: Any,
) -> Stage:
    plain = [item.model_dump(mode="json") if isinstance(item, Config) else item for item in settings]
    paths = tuple(folder.path / path for path in outputs)
    return Stage(name, what, plain, tuple(map(str, inputs)), paths, run, follows=name == "report")


def _short(model: str) -> str:
    return Path(model).name if Path(model).is_absolute() else model


def _create(folder: RunDirectory) -> Stage:
    create, sft = folder.recipe.model.create, folder.recipe.sft
    assert create is not None
    assert sft is not None  # the recipe checks it

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.models.creation import create_model

        drops = Drops()
        texts = (text for segment in read_corpus(sft.data, drops) for text in (segment.source, *segment.references))
        with complete_folder(folder.path / NEW) as new:
            create_model(create, texts, new)
        return {"seed": create.seed, "dropped": dict(drops)}

    what = f"a new {create.architecture} model with a vocabulary of its own"
    return _stage(folder, "create", what, [create, sft.data], corpus_files(sft.data), [NEW], run)


def _sft(folder: RunDirectory) -> Stage:
    sft = folder.recipe.sft
    assert sft is not None

    def run(overwrite: bool) -> dict[str, Any]:
        drops = Drops()
        texts = _reference_texts(read_corpus(sft.data, drops))
        return _run_training(folder, folder.start, texts, sft, BASE, overwrite, drops)

    what = f"fine-tune {_short(folder.start)} on references"
    inputs = [*folder.model_files(folder.start), *corpus_files(sft.data), *evaluation_files(sft)]
    return _stage(folder, "sft", what, [sft, _prompt(folder)], inputs, [FOLDERS[BASE]], run)


def _candidates(folder: RunDirectory, translate: TranslateConfig) -> Stage:
    data, model = folder.recipe.data, folder.recipe.model
    output = folder.path / "candidates.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.translation.translate import translate_to_file

        drops = Drops()
        with _engine(folder, folder.base, BASE, data.take) as engine:
            figures = translate_to_file(engine, read_corpus(data, drops), translate, output, overwrite)
        return figures | {"dropped": dict(drops), "seed": translate.seed}

    what = f"{translate.num_candidates} candidates a source from {_short(folder.base)}, {translate.sampling}"
    inputs = [*folder.model_files(folder.base), *corpus_files(data)]
    how = _prompt(folder) | {"dtype": model.dtype}
    return _stage(folder, "translate", what, [translate, data, how], inputs, [output], run)


def _prefs(folder: RunDirectory) -> Stage:
    prefs, data = folder.recipe.prefs, folder.recipe.data
    candidates = folder.path / "candidates.jsonl" if folder.recipe.translate is not None else None
    names = ("prefs.jsonl", "prefs-report.json", "scored.jsonl", "prefs-report.html")
    outputs = [folder.path / name for name in names]

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.preferences.build import build_preferences
        from mtcpo.report.pairs_page import write_pair_page

        drops = Drops()
        segments = read_corpus(data, drops) if candidates is None else read_segments(candidates)
        report = build_preferences(segments, prefs, outputs[0], outputs[1], outputs[2], drops)
        write_pair_page(outputs[1])
        notes = {"note": "; ".join(report.notes)} if report.notes else {}
        return {"segments": report.segments, "kept": report.kept, "dropped": report.dropped} | notes

    selection = selection_name(prefs.select)
    what = f"triplets by {' + '.join(prefs.metrics)}, {selection}"
    choice = prefs.model_dump(mode="json", exclude=PROCESS_SETTINGS) | {"comet.precision": prefs.comet.precision}
    # A selection or metric of the user's own is an input too: when its code changes, the pairs are built again.
    code = code_files(prefs.metrics) + ([user_code_file(selection)] if is_user_code(selection) else [])
    if candidates is None:
        return _stage(folder, "prefs", what, [choice, data], [*corpus_files(data), *code], outputs, run)
    return _stage(folder, "prefs", what, [choice], [candidates, *code], outputs, run)


def _train(folder: RunDirectory) -> Stage:
    train, prefs = folder.recipe.train, folder.path / "prefs.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.training.examples import pair_texts

        triplets = (triplet_from_json(row, where) for where, row in read_row_file(prefs))
        return _run_training(folder, folder.base, pair_texts(triplets), train, TUNED, overwrite)

    what = f"{_short(folder.base)} by loss {train.loss}, beta {train.beta:g}, cpo_alpha {train.cpo_alpha:g}"
    inputs = [*folder.model_files(folder.base), str(prefs), *evaluation_files(train), *loss_files(train)]
    return _stage(folder, "train", what, [train, _prompt(folder)], inputs, [FOLDERS[TUNED]], run)


def _control(folder: RunDirectory, settings: TrainConfig) -> Stage:
    prefs, scored = folder.path / "prefs.jsonl", folder.path / "scored.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        kept = {row["id"] for _, row in read_row_file(prefs)}
        segments = (segment for segment in read_segments(scored) if segment.id in kept)
        return _run_training(folder, folder.base, _reference_texts(segments), settings, CONTROL, overwrite)

    what = "as much further fine-tuning on the references of the same sources"
    inputs = [*folder.model_files(folder.base), str(prefs), str(scored), *evaluation_files(settings)]
    return _stage(folder, "control", what, [settings, _prompt(folder)], inputs, [FOLDERS[CONTROL]], run)


def _decode(folder: RunDirectory, system: str, model: str) -> Stage:
    decoding, settings = folder.recipe.evaluate.decoding, folder.recipe.model
    outputs = folder.translations(f"{system}.txt")

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.evaluation.results import write_translations
        from mtcpo.translation.translate import translate_texts

        test_sets = folder.test_sets()
        with _engine(folder, model, system, sum(len(test_set.segments) for test_set in test_sets)) as engine:
            for test_set, path in zip(test_sets, outputs, strict=True):
                how = decoding_of(test_set, decoding)
                write_translations(path, translate_texts(engine, test_set.segments, how))
        return {"seed": decoding.seed}

    what = f"translate the test sets with {_short(model)}"
    inputs = [*folder.model_files(model), *folder.test_files()]
    how = _prompt(folder) | {"dtype": settings.dtype}
    return _stage(folder, f"decode {system}", what, [decoding, how, _suites(folder)], inputs, outputs, run)


def _evaluate(folder: RunDirectory) -> Stage:
    evaluate = folder.recipe.evaluate
    files = {system: folder.translations(f"{system}.txt") for system in folder.systems}

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.evaluation.results import write_evaluation
        from mtcpo.evaluation.systems import OutputFiles, evaluate_systems

        selection_metrics = [metric_name(spec) for spec in folder.recipe.prefs.metrics]
        systems = {system: OutputFiles(paths) for system, paths in files.items()}
        evaluations = evaluate_systems(folder.test_sets(), systems, evaluate, folder.path, selection_metrics)
        write_evaluation(folder.path, evaluations, overwrite=True)  # the stage was allowed to
        return {"seed": evaluate.seed}

    names = ", ".join(evaluate.metrics) if evaluate.metrics else "metrics of the suites"
    what = f"{names}, with significance against {evaluate.baseline or BASE}"
    inputs = [*(str(path) for paths in files.values() for path in paths), *folder.test_files()]
    inputs += code_files(evaluate.metrics or ())
    settings: list[Config | list[str]] = [evaluate, list(folder.recipe.prefs.metrics)]
    outputs: list[str | Path] = ["evaluation.json", *folder.translations("segments.jsonl")]
    return _stage(folder, "evaluate", what, settings, inputs, outputs, run)


def _report(folder: RunDirectory) -> Stage:
    logs = {"sft": BASE, "cpo": TUNED, "control": CONTROL}
    wanted = {"cpo"} | ({"sft"} if folder.recipe.sft else set()) | ({"control"} if folder.recipe.control else set())
    files = {stage: folder.path / FOLDERS[logs[stage]] / "metrics.jsonl" for stage in logs if stage in wanted}

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.report.page import write_report

        rows = ({"stage": stage} | row for stage, path in files.items() for _, row in read_row_file(path))
        write_row_file(folder.path / "metrics.jsonl", rows)
        write_report(folder.path)
        return {}

    inputs = [*files.values(), *(folder.path / name for name in ("evaluation.json", "prefs-report.json"))]
    return _stage(folder, "report", "one page with the evidence", [], inputs, ["metrics.jsonl", "report.html"], run)


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
    """Train; `drops`, what the reader of `texts` drops, is counted with what training drops."""
    from mtcpo.training.arguments import DEFAULT_ARGS
    from mtcpo.training.train import train

    output = folder.path / FOLDERS[system]
    origin = "references" if config.loss == "sft" else "prefs.jsonl"
    options = folder.model_options
    report = train(model, texts, config, output, options=options, origin=origin, overwrite=overwrite)
    dropped = Drops(report["dropped"]) + (drops or Drops())
    seed = (DEFAULT_ARGS | config.args)["seed"]
    counted = {name: report[name] for name in ("steps", "tokens")}
    return {"examples": report["examples"], "dropped": dict(dropped), **counted, "seed": seed}


def _reference_texts(segments: Iterable[Segment]) -> Iterator[TextExample]:
    from mtcpo.training.examples import reference_texts

    return reference_texts(segments)


def _engine(folder: RunDirectory, name: str, system: str, sources: int | None) -> Any:
    from mtcpo.translation.engines import open_engine

    return open_engine(name, system, folder.recipe.model.dtype, folder.model_options, sources)


def _prompt(folder: RunDirectory) -> dict[str, Any]:
    """Return what of [model] a stage depends on besides the model itself, which is one of its inputs."""
    model = folder.recipe.model
    # Only where it is given: runs made before there was such a setting stay valid.
    family = {} if model.family is None else {"family": model.family}
    return {"prompt": model.prompt} | family


def _suites(folder: RunDirectory) -> list[str]:
    return list(folder.recipe.evaluate.suites)
