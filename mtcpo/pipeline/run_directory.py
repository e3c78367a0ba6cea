"""A run directory: which folders and files the stages of a recipe make in it, and which files they read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mtcpo.core.user_code import is_user_code, user_code_file
from mtcpo.data.config import CorpusConfig, SourceConfig
from mtcpo.evaluation.results import translations_dir
from mtcpo.evaluation.systems import load_configured_sets
from mtcpo.evaluation.testsets.suites import name_test_sets
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.registry import code_files
from mtcpo.models.config import ModelOptions
from mtcpo.models.families import load_family
from mtcpo.pipeline.recipe import BASE, CONTROL, TUNED, Recipe
from mtcpo.training.config import TrainConfig
from mtcpo.training.losses import LOSS_PARAMETERS

FOLDERS = {BASE: "base", TUNED: "model", CONTROL: "control"}
NEW = "new"


@dataclasses.dataclass(frozen=True, slots=True)
class RunDirectory:
    """A recipe's run directory: where its stages find each other's files."""

    recipe: Recipe
    path: Path
    allow_code: bool = False
    """Whether code that a model's directory brings may run."""

    @property
    def start(self) -> str:
        """The model before fine-tuning: a name, or the folder of the new one."""
        return str(self.path / NEW) if self.recipe.model.create is not None else str(self.recipe.model.name)

    @property
    def base(self) -> str:
        """The model that preferences are made for: the start, fine-tuned where the recipe says so."""
        return str(self.path / FOLDERS[BASE]) if self.recipe.sft is not None else self.start

    @property
    def systems(self) -> dict[str, str]:
        """The models that are compared, by name; the baseline first."""
        models = {BASE: self.base, TUNED: str(self.path / FOLDERS[TUNED])}
        return models | ({CONTROL: str(self.path / FOLDERS[CONTROL])} if self.recipe.control is not None else {})

    @property
    def model_options(self) -> ModelOptions:
        """What [model] says of every model of the run beside its name.

        Raises:
            UserError: model.family cannot be imported, or is no Family.
        """
        model = self.recipe.model
        return ModelOptions(model.prompt, load_family(model.family, "model.family"), self.allow_code)

    def model_files(self, name: str) -> list[str]:
        """Return what a model is loaded from: itself, and the user's code that says how."""
        family = self.recipe.model.family
        return [name] if family is None else [name, user_code_file(family)]

    def translations(self, file: str) -> list[Path]:
        """A file of each test set's folder: a system's translations, or the segments with all of them."""
        evaluate = self.recipe.evaluate
        names = name_test_sets(evaluate.suites, evaluate.sets)
        return [translations_dir(self.path, name, pair) / file for name, pair in names]

    def test_sets(self) -> list[TestSet]:
        """Load the test sets that the run is evaluated on."""
        return load_configured_sets(self.recipe.evaluate)

    def test_files(self) -> list[str]:
        """Return the local files that the test sets are read from."""
        evaluate = self.recipe.evaluate
        files = [file for test in evaluate.sets for file in (test.source, *test.references)]
        return [*files, *(spec for spec in evaluate.suites if spec.endswith(".toml"))]


def control_settings(recipe: Recipe) -> TrainConfig | None:
    """Return [train] for `sft`, without what only preference losses have: to change that changes no control."""
    if recipe.control is None:
        return None
    plain = {name: TrainConfig.model_fields[name].default for name in LOSS_PARAMETERS}
    return recipe.train.model_copy(update=plain | {"loss": "sft", "args": recipe.train.args | recipe.control.args})


def corpus_files(corpus: SourceConfig) -> list[str]:
    """Return what a corpus or preference set is read from: files, or the name of a data set."""
    source = user_code_file(corpus.source) if is_user_code(corpus.source) else corpus.source
    aligned = [*corpus.references, *corpus.hypotheses.values()] if isinstance(corpus, CorpusConfig) else []
    return [source, *aligned]


def loss_files(config: TrainConfig) -> list[str]:
    """Return the file of a custom loss; a change of it is a change of the stage."""
    return [user_code_file(config.loss)] if is_user_code(config.loss) else []


def evaluation_files(config: TrainConfig) -> list[str]:
    """Return the files that a stage of training is evaluated on."""
    pairs = [] if config.eval is None else corpus_files(config.eval.corpus)
    return pairs + ([] if config.dev is None else corpus_files(config.dev) + code_files(config.dev.metrics))
