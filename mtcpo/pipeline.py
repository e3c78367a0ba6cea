"""`mtcpo run`: a recipe as stages that hand files to each other inside a run directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtcpo.config import Config, to_toml
from mtcpo.corpora import CorpusConfig, Drops, read_corpus
from mtcpo.files import complete_folder, read_json_lines, write_json_lines, write_text
from mtcpo.recipe import ModelConfig, Recipe
from mtcpo.records import Segment, read_segments, triplet_from_json
from mtcpo.stages import Stage, check_may_run, run_stages
from mtcpo.testsets import TestSet, load_test_sets, name_test_sets
from mtcpo.trainconfig import TrainConfig
from mtcpo.translation import TranslateConfig

if TYPE_CHECKING:
    from mtcpo.layouts import Text

BASE, TUNED, CONTROL = "base", "tuned", "control"
"""The systems that a run compares: its start, the model trained on preferences, as much more fine-tuning."""

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

    def translations(self, system: str) -> list[Path]:
        """The files of a system's translations, one a test set."""
        evaluate = self.recipe.evaluate
        return [
            self.run / "translations" / name / pair / f"{system}.txt"
            for name, pair in name_test_sets(evaluate.suites, evaluate.sets)
        ]

    def test_sets(self) -> list[TestSet]:
        """Load what the run is judged by."""
        evaluate = self.recipe.evaluate
        folder = None if evaluate.test_set_dir is None else Path(evaluate.test_set_dir)
        return load_test_sets(evaluate.suites, evaluate.sets, folder)


def stages_of(recipe: Recipe, run: Path) -> list[Stage]:
    """Return the stages of a recipe in a run directory, in order."""
    places = Places(recipe, run.resolve())
    stages = []
    if recipe.model.create is not None:
        stages.append(_create(places))
    if recipe.sft is not None:
        stages.append(_sft(places))
    if recipe.translate is not None:
        stages.append(_candidates(places, recipe.translate))
    stages += [_prefs(places), _train(places)]
    if recipe.control is not None:
        stages.append(_control(places, recipe.control.args))
    stages += [_decode(places, system, model) for system, model in places.systems.items()]
    return [*stages, _evaluate(places), _report(places)]


def run_recipe(recipe: Recipe, folder: Path, overwrite: bool, say: Callable[[str], None]) -> Path:
    """Run what is not done yet of a recipe; return the report.

    Raises:
        UserError: outputs of other settings lie there and may not be overwritten, and all that the stages raise.
    """
    stages = stages_of(recipe, folder)
    check_may_run(stages, folder, overwrite)
    write_text(folder / "recipe.toml", to_toml(recipe))
    run_stages(stages, folder, overwrite, say)
    return folder / "report.html"


def _stage(
    places: Places,
    name: str,
    what: str,
    settings: Iterable[Config | list[str]],
    inputs: Iterable[str | Path],
    outputs: Iterable[str | Path],
    run: Any,
) -> Stage:
    plain = [item.model_dump(mode="json") if isinstance(item, Config) else item for item in settings]
    return Stage(name, what, plain, tuple(map(str, inputs)), tuple(places.run / path for path in outputs), run)


def _corpus_files(corpus: CorpusConfig) -> list[str]:
    return [corpus.source, *corpus.references, *corpus.hypotheses.values()]


def _short(model: str) -> str:
    return Path(model).name if Path(model).is_absolute() else model


def _create(places: Places) -> Stage:
    create, sft = places.recipe.model.create, places.recipe.sft
    assert create is not None
    assert sft is not None  # the recipe checks it

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.creation import create_model

        texts = (text for segment in read_corpus(sft.data) for text in (segment.source, *segment.references))
        with complete_folder(places.run / NEW) as folder:
            create_model(create, texts, folder)
        return {}

    what = f"a new {create.architecture} model with a vocabulary of its own"
    return _stage(places, "create", what, [create, sft.data], _corpus_files(sft.data), [NEW], run)


def _sft(places: Places) -> Stage:
    sft = places.recipe.sft
    assert sft is not None

    def run(overwrite: bool) -> dict[str, Any]:
        return _run_training(places, places.start, _reference_texts(read_corpus(sft.data)), sft, BASE, overwrite)

    what = f"fine-tune {_short(places.start)} on references"
    inputs = [places.start, *_corpus_files(sft.data)]
    return _stage(places, "sft", what, [sft, places.recipe.model], inputs, [FOLDERS[BASE]], run)


def _candidates(places: Places, translate: TranslateConfig) -> Stage:
    data, model = places.recipe.data, places.recipe.model
    output = places.run / "candidates.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.translation import translate_to_file

        with _engine(places.base, BASE, model, data.take) as engine:
            return translate_to_file(engine, read_corpus(data), translate, output, overwrite)

    what = f"{translate.num_candidates} candidates a source from {_short(places.base)}, {translate.sampling}"
    inputs = [places.base, *_corpus_files(data)]
    return _stage(places, "translate", what, [translate, data, model], inputs, [output], run)


def _prefs(places: Places) -> Stage:
    prefs, data = places.recipe.prefs, places.recipe.data
    candidates = places.run / "candidates.jsonl" if places.recipe.translate is not None else None
    outputs = [places.run / name for name in ("prefs.jsonl", "prefs-report.json", "scored.jsonl")]

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.preferences import build_preferences

        drops = Drops()
        segments = read_corpus(data, drops) if candidates is None else read_segments(candidates)
        report = build_preferences(segments, prefs, outputs[0], outputs[1], outputs[2], drops)
        return {key: report[key] for key in ("segments", "kept", "dropped")}

    what = f"triplets by {' + '.join(prefs.metrics)}, {prefs.select}"
    settings, inputs = ([prefs, data], _corpus_files(data)) if candidates is None else ([prefs], [str(candidates)])
    return _stage(places, "prefs", what, settings, inputs, outputs, run)


def _train(places: Places) -> Stage:
    train, prefs = places.recipe.train, places.run / "prefs.jsonl"

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.training import pair_texts

        triplets = (triplet_from_json(row, where) for where, row in read_json_lines(prefs))
        return _run_training(places, places.base, pair_texts(triplets), train, TUNED, overwrite)

    what = f"{_short(places.base)} by loss {train.loss}, beta {train.beta:g}, cpo_alpha {train.cpo_alpha:g}"
    inputs = [places.base, str(prefs)]
    return _stage(places, "train", what, [train, places.recipe.model], inputs, [FOLDERS[TUNED]], run)


def _control(places: Places, args: dict[str, Any]) -> Stage:
    prefs, scored = places.run / "prefs.jsonl", places.run / "scored.jsonl"
    train = places.recipe.train
    settings = train.model_copy(update={"loss": "sft", "args": train.args | args})

    def run(overwrite: bool) -> dict[str, Any]:
        kept = {row["id"] for _, row in read_json_lines(prefs)}
        segments = (segment for segment in read_segments(scored) if segment.id in kept)
        return _run_training(places, places.base, _reference_texts(segments), settings, CONTROL, overwrite)

    what = "as much further fine-tuning on the references of the same sources"
    inputs = [places.base, str(prefs), str(scored)]
    return _stage(places, "control", what, [settings, places.recipe.model], inputs, [FOLDERS[CONTROL]], run)


def _decode(places: Places, system: str, model: str) -> Stage:
    decoding, settings = places.recipe.evaluate.decoding, places.recipe.model
    outputs = places.translations(system)

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.evaluation import write_translations
        from mtcpo.translation import translate_texts

        test_sets = places.test_sets()
        with _engine(model, system, settings, sum(len(test_set.segments) for test_set in test_sets)) as engine:
            for test_set, path in zip(test_sets, outputs, strict=True):
                write_translations(path, translate_texts(engine, test_set.segments, decoding))
        return {}

    what = f"translate the test sets with {_short(model)}"
    inputs = [model, *_test_files(places)]
    return _stage(places, f"decode {system}", what, [decoding, settings, _suites(places)], inputs, outputs, run)


def _evaluate(places: Places) -> Stage:
    evaluate = places.recipe.evaluate
    files = {system: places.translations(system) for system in places.systems}

    def run(overwrite: bool) -> dict[str, Any]:
        from mtcpo.evaluation import evaluate_outputs, read_outputs, write_evaluation
        from mtcpo.metrics import load_metric, metric_name

        chosen_by = [metric_name(spec) for spec in places.recipe.prefs.metrics]
        evaluations = []
        for number, test_set in enumerate(places.test_sets()):
            outputs = read_outputs([(system, paths[number]) for system, paths in files.items()], test_set)
            metrics = [load_metric(spec, test_set.tgt_lang) for spec in evaluate.metrics]
            evaluations.append(evaluate_outputs(test_set, outputs, metrics, evaluate, chosen_by))
        write_evaluation(places.run, evaluations, overwrite=True)  # the stage was allowed to
        return {}

    what = f"{', '.join(evaluate.metrics)}, with significance against {evaluate.baseline or BASE}"
    inputs = [*(str(path) for paths in files.values() for path in paths), *_test_files(places)]
    settings: list[Config | list[str]] = [evaluate, list(places.recipe.prefs.metrics)]
    return _stage(places, "evaluate", what, settings, inputs, ["evaluation.json"], run)


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
    places: Places, model: str, texts: Iterable[Text], config: TrainConfig, system: str, overwrite: bool
) -> dict[str, Any]:
    from mtcpo.training import train

    output = places.run / FOLDERS[system]
    report = train(model, texts, config, output, prompt=places.recipe.model.prompt, overwrite=overwrite)
    return {key: report[key] for key in ("examples", "dropped", "steps")}


def _reference_texts(segments: Iterable[Segment]) -> Iterator[Text]:
    from mtcpo.training import reference_texts

    return reference_texts(segments)


def _engine(name: str, system: str, settings: ModelConfig, sources: int | None) -> Any:
    from mtcpo.translation.generate import open_engine

    return open_engine(name, system, settings.dtype, settings.prompt, sources)


def _suites(places: Places) -> list[str]:
    return list(places.recipe.evaluate.suites)


def _test_files(places: Places) -> list[str]:
    return [file for test in places.recipe.evaluate.sets for file in (test.source, *test.references)]
