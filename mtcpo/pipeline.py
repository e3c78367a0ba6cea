"""`mtcpo run`: a recipe as stages that hand files to each other inside a run directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtcpo.config import Config, to_toml
from mtcpo.corpora import CorpusConfig, Drops, read_corpus
from mtcpo.errors import UserError
from mtcpo.evaluation import metrics_of, translations_dir
from mtcpo.files import complete_folder, read_json_lines, write_json_lines, write_text
from mtcpo.metrics import candidate_kind, is_computed, load_candidate_metric, metric_name
from mtcpo.owncode import code_file, is_code
from mtcpo.preferences import PROCESS_SETTINGS
from mtcpo.recipe import BASE, CONTROL, TUNED, ModelConfig, Recipe
from mtcpo.records import Segment, read_segments, triplet_from_json
from mtcpo.stages import STAMP_FILE, Stage, check_may_run, run_stages, unfinished
from mtcpo.suites import decoding_of, load_test_sets, name_test_sets
from mtcpo.testsets import TestSet
from mtcpo.trainconfig import USED_BY, TrainConfig
from mtcpo.translation import TranslateConfig

if TYPE_CHECKING:
    from mtcpo.layouts import Text

FOLDERS = {BASE: "base", TUNED: "model", CONTROL: "control"}
NEW = "new"


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """Where a recipe's stages find each other's files."""

    recipe: Recipe
    run: Path

    @property
    def start(self) -> str:
        """The model before fine-tuning: a name, or the folder of the new one."""
        return str(self.run / NEW) if self.recipe.model.create is not None else str(self.recipe.model.name)

    @property
    def base(self) -> str:
        """The model that preferences are made for: the start, fine-tuned where the recipe says so."""
        return str(self.run / FOLDERS[BASE]) if self.recipe.sft is not None else self.start

    @property
    def systems(self) -> dict[str, str]:
        """The models that are compared, by name; the baseline first."""
        models = {BASE: self.base, TUNED: str(self.run / FOLDERS[TUNED])}
        return models | ({CONTROL: str(self.run / FOLDERS[CONTROL])} if self.recipe.control is not None else {})

    def translations(self, file: str) -> list[Path]:
        """A file of each test set's folder: a system's translations, or the segments with all of them."""
        evaluate = self.recipe.evaluate
        names = name_test_sets(evaluate.suites, evaluate.sets)
        return [translations_dir(self.run, name, pair) / file for name, pair in names]

    def test_sets(self) -> list[TestSet]:
        """Load what the run is judged by."""
        evaluate = self.recipe.evaluate
        folder = None if evaluate.test_set_dir is None else Path(evaluate.test_set_dir)
        return load_test_sets(evaluate.suites, evaluate.sets, folder, evaluate.submitted)


def stages_of(recipe: Recipe, run: Path) -> list[Stage]:
    """Return the stages of a recipe in a run directory, in order."""
    places = Places(recipe, run.resolve())
    stages = []
    if recipe.model.create is not None:
        stages.append(_create(places))
    if recipe.sft is not None:
        stages.append(_sft(places))
    if recipe.translate is not None:
        # The choice by confidence needs what the others do not.
        logprobs = recipe.translate.logprobs or recipe.prefs.select == "confidence"
        stages.append(_candidates(places, recipe.translate.model_copy(update={"logprobs": logprobs})))
    stages += [_prefs(places), _train(places)]
    if control := _control_settings(recipe):
        stages.append(_control(places, control))
    stages += [_decode(places, system, model) for system, model in places.systems.items()]
    return [*stages, _evaluate(places), _report(places)]


def run_recipe(recipe: Recipe, folder: Path, overwrite: bool, say: Callable[[str], None]) -> Path:
    """Run what is not done yet of a recipe; return the report.

    Raises:
        UserError: outputs of other settings lie there and may not be overwritten, a later stage would find something
            missing, and all that the stages raise.
    """
    stages = stages_of(recipe, folder)
    text, resolved = to_toml(recipe), folder / "recipe.toml"
    there = resolved.read_text(encoding="utf-8", errors="replace") if resolved.exists() else None
    if there not in (None, text) and not (folder / STAMP_FILE).exists() and not overwrite:
        raise UserError(f"{resolved} exists and is not of a run; choose another --output-dir, or pass --overwrite")
    check_may_run(stages, folder, overwrite)
    waiting = unfinished(stages, folder)
    if waiting:
        from mtcpo.progress import quiet_libraries

        quiet_libraries()
        _check_ready(Places(recipe, folder.resolve()), waiting)
    if there != text:
        write_text(resolved, text)
    run_stages(stages, folder, overwrite, say)
    return folder / "report.html"


# --- what would stop a later stage ----------------------------------------------------------------------------------


def _check_ready(places: Places, waiting: Collection[str]) -> None:
    """Find what would stop one of the `waiting` stages, before the hours of the earlier ones."""
    recipe = places.recipe
    for name, config in (("sft", recipe.sft), ("train", recipe.train), ("control", _control_settings(recipe))):
        if config is not None and name in waiting:
            from mtcpo.arguments import training_arguments
            from mtcpo.devset import load_dev_set

            training_arguments(config, places.run)
            if config.dev is not None:
                load_dev_set(config.dev)
    if recipe.sft is not None and "sft" in waiting:
        _check_references(recipe.sft.data, "fine-tuning")
    if "translate" in waiting or "prefs" in waiting:
        computed = [spec for spec in recipe.prefs.metrics if is_computed(spec)]
        needy = [spec for spec in computed if candidate_kind(spec).needs_references]
        if needy or recipe.control is not None:
            _check_references(recipe.data, needy[0] if needy else "the control")
    _check_metrics(places, waiting)


def _check_references(corpus: CorpusConfig, what: str) -> None:
    first = next(read_corpus(corpus), None)
    if first is None:
        raise UserError(f"{corpus.source}: every source in it is empty")
    if not first.references:
        raise UserError(f"segment {first.id} of {corpus.source}: no reference, and {what} needs one")


def _check_metrics(places: Places, waiting: Collection[str]) -> None:
    """Load the test sets, and each metric once: what is missing of them shows now."""
    recipe, wanted = places.recipe, set[tuple[str, str]]()
    if any(name == "evaluate" or name.startswith("decode") for name in waiting):
        test_sets = places.test_sets()
        wanted |= {(spec, one.tgt_lang) for one in test_sets for spec in metrics_of(recipe.evaluate, one)}
    if "prefs" in waiting:
        computed = [spec for spec in recipe.prefs.metrics if is_computed(spec)]
        wanted |= {(spec, recipe.data.tgt_lang or "und") for spec in computed}
    # Only formulas differ by language; a model is loaded once.
    for spec, language in sorted({(s, lang if candidate_kind(s).is_formula else "und") for s, lang in wanted}):
        load_candidate_metric(spec, language, lambda metric, _: metric)


def _stage(
    places: Places,
    name: str,
    what: str,
    settings: Iterable[Config | Mapping[str, Any] | list[str]],
    inputs: Iterable[str | Path],
    outputs: Iterable[str | Path],
    run: Any,
) -> Stage:
    plain = [item.model_dump(mode="json") if isinstance(item, Config) else item for item in settings]
    paths = tuple(places.run / path for path in outputs)
    return Stage(name, what, plain, tuple(map(str, inputs)), paths, run, follows=name == "report")


def _corpus_files(corpus: CorpusConfig) -> list[str]:
    source = code_file(corpus.source) if is_code(corpus.source) else corpus.source
    return [source, *corpus.references, *corpus.hypotheses.values()]


def _judged_by(config: TrainConfig) -> list[str]:
    """Return the files that a stage of training is evaluated on."""
    pairs = [] if config.eval is None else _corpus_files(config.eval.corpus)
    return pairs + ([] if config.dev is None else _corpus_files(config.dev))


def _short(model: str) -> str:
    return Path(model).name if Path(model).is_absolute() else model


def _create(places: Places) -> Stage:
    create, sft = places.recipe.model.create, places.recipe.sft
    assert create is not None
    assert sft is not None  # the recipe checks it

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.creation import create_model

        drops = Drops()
        texts = (text for segment in read_corpus(sft.data, drops) for text in (segment.source, *segment.references))
        with complete_folder(places.run / NEW) as folder:
            create_model(create, texts, folder)
        return {"seed": create.seed, "dropped": dict(drops)}

    what = f"a new {create.architecture} model with a vocabulary of its own"
    return _stage(places, "create", what, [create, sft.data], _corpus_files(sft.data), [NEW], run)


def _sft(places: Places) -> Stage:
    sft = places.recipe.sft
    assert sft is not None

    def run(overwrite: bool) -> dict[str, Any]:
        drops = Drops()
        texts = _reference_texts(read_corpus(sft.data, drops))
        return _run_training(places, places.start, texts, sft, BASE, overwrite, drops)

    what = f"fine-tune {_short(places.start)} on references"
    inputs = [places.start, *_corpus_files(sft.data), *_judged_by(sft)]
    return _stage(places, "sft", what, [sft, _prompt(places)], inputs, [FOLDERS[BASE]], run)


def _candidates(places: Places, translate: TranslateConfig) -> Stage:
    data, model = places.recipe.data, places.recipe.model
    output = places.run / "candidates.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.translation import translate_to_file

        drops = Drops()
        with _engine(places.base, BASE, model, data.take) as engine:
            figures = translate_to_file(engine, read_corpus(data, drops), translate, output, overwrite)
        return figures | {"dropped": dict(drops), "seed": translate.seed}

    what = f"{translate.num_candidates} candidates a source from {_short(places.base)}, {translate.sampling}"
    inputs = [places.base, *_corpus_files(data)]
    how = _prompt(places) | {"dtype": model.dtype}
    return _stage(places, "translate", what, [translate, data, how], inputs, [output], run)


def _prefs(places: Places) -> Stage:
    prefs, data = places.recipe.prefs, places.recipe.data
    candidates = places.run / "candidates.jsonl" if places.recipe.translate is not None else None
    names = ("prefs.jsonl", "prefs-report.json", "scored.jsonl", "prefs-report.html")
    outputs = [places.run / name for name in names]

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.pairpage import write_pair_page
        from mtcpo.preferences import build_preferences

        drops = Drops()
        segments = read_corpus(data, drops) if candidates is None else read_segments(candidates)
        report = build_preferences(segments, prefs, outputs[0], outputs[1], outputs[2], drops)
        write_pair_page(outputs[1])
        notes = {"note": "; ".join(report["notes"])} if report["notes"] else {}
        return {key: report[key] for key in ("segments", "kept", "dropped")} | notes

    what = f"triplets by {' + '.join(prefs.metrics)}, {prefs.select}"
    choice = prefs.model_dump(mode="json", exclude=PROCESS_SETTINGS) | {"comet.precision": prefs.comet.precision}
    if candidates is None:
        return _stage(places, "prefs", what, [choice, data], _corpus_files(data), outputs, run)
    return _stage(places, "prefs", what, [choice], [candidates], outputs, run)


def _train(places: Places) -> Stage:
    train, prefs = places.recipe.train, places.run / "prefs.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.examples import pair_texts

        triplets = (triplet_from_json(row, where) for where, row in read_json_lines(prefs))
        return _run_training(places, places.base, pair_texts(triplets), train, TUNED, overwrite)

    what = f"{_short(places.base)} by loss {train.loss}, beta {train.beta:g}, cpo_alpha {train.cpo_alpha:g}"
    inputs = [places.base, str(prefs), *_judged_by(train)]
    return _stage(places, "train", what, [train, _prompt(places)], inputs, [FOLDERS[TUNED]], run)


def _control_settings(recipe: Recipe) -> TrainConfig | None:
    """Return [train] for `sft`, without what only preference losses have: to change that changes no control."""
    if recipe.control is None:
        return None
    plain = {name: TrainConfig.model_fields[name].default for name in USED_BY}
    return recipe.train.model_copy(update=plain | {"loss": "sft", "args": recipe.train.args | recipe.control.args})


def _control(places: Places, settings: TrainConfig) -> Stage:
    prefs, scored = places.run / "prefs.jsonl", places.run / "scored.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        kept = {row["id"] for _, row in read_json_lines(prefs)}
        segments = (segment for segment in read_segments(scored) if segment.id in kept)
        return _run_training(places, places.base, _reference_texts(segments), settings, CONTROL, overwrite)

    what = "as much further fine-tuning on the references of the same sources"
    inputs = [places.base, str(prefs), str(scored), *_judged_by(settings)]
    return _stage(places, "control", what, [settings, _prompt(places)], inputs, [FOLDERS[CONTROL]], run)


def _decode(places: Places, system: str, model: str) -> Stage:
    decoding, settings = places.recipe.evaluate.decoding, places.recipe.model
    outputs = places.translations(f"{system}.txt")

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.evaluation import write_translations
        from mtcpo.translation import translate_texts

        test_sets = places.test_sets()
        with _engine(model, system, settings, sum(len(test_set.segments) for test_set in test_sets)) as engine:
            for test_set, path in zip(test_sets, outputs, strict=True):
                how = decoding_of(test_set, decoding)
                write_translations(path, translate_texts(engine, test_set.segments, how))
        return {"seed": decoding.seed}

    what = f"translate the test sets with {_short(model)}"
    inputs = [model, *_test_files(places)]
    how = _prompt(places) | {"dtype": settings.dtype}
    return _stage(places, f"decode {system}", what, [decoding, how, _suites(places)], inputs, outputs, run)


def _evaluate(places: Places) -> Stage:
    evaluate = places.recipe.evaluate
    files = {system: places.translations(f"{system}.txt") for system in places.systems}

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.evaluation import evaluate_outputs, load_metrics_for, read_outputs, write_evaluation

        chosen_by = [metric_name(spec) for spec in places.recipe.prefs.metrics]
        evaluations, test_sets = [], places.test_sets()
        metrics = load_metrics_for(test_sets, evaluate, places.run)
        for number, test_set in enumerate(test_sets):
            outputs = read_outputs([(system, paths[number]) for system, paths in files.items()], test_set)
            evaluations.append(evaluate_outputs(test_set, outputs, metrics[number], evaluate, chosen_by))
        write_evaluation(places.run, evaluations, overwrite=True)  # the stage was allowed to
        return {"seed": evaluate.seed}

    names = ", ".join(evaluate.metrics) if evaluate.metrics else "metrics of the suites"
    what = f"{names}, with significance against {evaluate.baseline or BASE}"
    inputs = [*(str(path) for paths in files.values() for path in paths), *_test_files(places)]
    settings: list[Config | list[str]] = [evaluate, list(places.recipe.prefs.metrics)]
    outputs: list[str | Path] = ["evaluation.json", *places.translations("segments.jsonl")]
    return _stage(places, "evaluate", what, settings, inputs, outputs, run)


def _report(places: Places) -> Stage:
    logs = {"sft": BASE, "cpo": TUNED, "control": CONTROL}
    wanted = {"cpo"} | ({"sft"} if places.recipe.sft else set()) | ({"control"} if places.recipe.control else set())
    files = {stage: places.run / FOLDERS[logs[stage]] / "metrics.jsonl" for stage in logs if stage in wanted}

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.report import write_report

        rows = ({"stage": stage} | row for stage, path in files.items() for _, row in read_json_lines(path))
        write_json_lines(places.run / "metrics.jsonl", rows)
        write_report(places.run)
        return {}

    inputs = [*files.values(), *(places.run / name for name in ("evaluation.json", "prefs-report.json"))]
    return _stage(places, "report", "one page with the evidence", [], inputs, ["metrics.jsonl", "report.html"], run)


# --- what stages share ----------------------------------------------------------------------------------------------


def _run_training(
    places: Places,
    model: str,
    texts: Iterable[Text],
    config: TrainConfig,
    system: str,
    overwrite: bool,
    drops: Drops | None = None,
) -> dict[str, Any]:
    """Train; `drops`, what the reader of `texts` drops, is counted with what training drops."""
    from mtcpo.arguments import DEFAULT_ARGS
    from mtcpo.training import train

    output = places.run / FOLDERS[system]
    origin = "references" if config.loss == "sft" else "prefs.jsonl"
    prompt = places.recipe.model.prompt
    report = train(model, texts, config, output, prompt=prompt, origin=origin, overwrite=overwrite)
    dropped = Drops(report["dropped"]) + (drops or Drops())
    seed = (DEFAULT_ARGS | config.args)["seed"]
    return {"examples": report["examples"], "dropped": dict(dropped), "steps": report["steps"], "seed": seed}


def _reference_texts(segments: Iterable[Segment]) -> Iterator[Text]:
    from mtcpo.examples import reference_texts

    return reference_texts(segments)


def _engine(name: str, system: str, settings: ModelConfig, sources: int | None) -> Any:
    from mtcpo.translation.generate import open_engine

    return open_engine(name, system, settings.dtype, settings.prompt, sources)


def _prompt(places: Places) -> dict[str, Any]:
    """Return what of [model] a stage depends on besides the model itself, which is one of its inputs."""
    return {"prompt": places.recipe.model.prompt}


def _suites(places: Places) -> list[str]:
    return list(places.recipe.evaluate.suites)


def _test_files(places: Places) -> list[str]:
    evaluate = places.recipe.evaluate
    files = [file for test in evaluate.sets for file in (test.source, *test.references)]
    return [*files, *(spec for spec in evaluate.suites if spec.endswith(".toml"))]
