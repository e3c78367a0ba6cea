"""A run directory: the files that the stages of a recipe read and write."""

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
from mtcpo.translation.config import TranslateConfig

MODEL_FOLDERS = {BASE: "base", TUNED: "model", CONTROL: "control"}
"""System -> folder of its model in the run directory."""

NEW_MODEL = "new"
"""Folder of a model made by [model.create], before fine-tuning."""


@dataclasses.dataclass(frozen=True, slots=True)
class RunDirectory:
    """The run directory of a recipe: paths, models and test sets for its stages."""

    recipe: Recipe
    path: Path
    allow_code: bool = False
    """Whether code in a model's directory may run."""

    @property
    def start(self) -> str:
        """The model before fine-tuning: a name, or the folder of the new one."""
        return str(self.path / NEW_MODEL) if self.recipe.model.create is not None else str(self.recipe.model.name)

    @property
    def base(self) -> str:
        """The SFT baseline, from which preference training starts: `start`, or the model that [sft] trained."""
        return str(self.path / MODEL_FOLDERS[BASE]) if self.recipe.sft is not None else self.start

    @property
    def systems(self) -> dict[str, str]:
        """System -> model, for the systems that are compared; the baseline first."""
        models = {BASE: self.base, TUNED: str(self.path / MODEL_FOLDERS[TUNED])}
        if self.recipe.control is not None:
            models[CONTROL] = str(self.path / MODEL_FOLDERS[CONTROL])
        return models

    @property
    def model_options(self) -> ModelOptions:
        """The settings of [model] for loading any model of the run.

        Raises:
            UserError: model.family cannot be imported, or is not a Family.
        """
        model = self.recipe.model
        return ModelOptions(model.prompt, load_family(model.family, "model.family"), self.allow_code, model.engine)

    def model_files(self, name: str) -> list[str]:
        """Return a model's inputs: its name or folder, and the file of a custom family."""
        family = self.recipe.model.family
        return [name] if family is None else [name, user_code_file(family)]

    def translations(self, file: str) -> list[Path]:
        """Return the paths of `file` in the folders of all test sets."""
        evaluate = self.recipe.evaluate
        names = name_test_sets(evaluate.suites, evaluate.sets)
        return [translations_dir(self.path, name, pair) / file for name, pair in names]

    def test_sets(self) -> list[TestSet]:
        """Load the test sets that the run is evaluated on."""
        return load_configured_sets(self.recipe.evaluate)

    def test_files(self) -> list[str]:
        """Return the local files that the test sets are read from."""
        evaluate = self.recipe.evaluate
        # The other suites are shipped or sacreBLEU's.
        files = [spec for spec in evaluate.suites if spec.endswith(".toml")]
        for test_set in evaluate.sets:
            files += [test_set.source, *test_set.references]
        return files


def control_settings(recipe: Recipe) -> TrainConfig | None:
    """Return the settings that train the control: those of [train], with the loss `sft`.

    Without the parameters of preference losses, so that changing one of them does not retrain the control.
    """
    if recipe.control is None:
        return None
    defaults = {name: TrainConfig.model_fields[name].default for name in LOSS_PARAMETERS}
    args = recipe.train.args | recipe.control.args
    return recipe.train.model_copy(update=defaults | {"loss": "sft", "args": args})


def corpus_files(corpus: SourceConfig) -> list[str]:
    """Return the inputs of a corpus or preference set: files, or the name of a data set."""
    source = user_code_file(corpus.source) if is_user_code(corpus.source) else corpus.source
    aligned = [*corpus.references, *corpus.hypotheses.values()] if isinstance(corpus, CorpusConfig) else []
    return [source, *aligned]


def loss_files(config: TrainConfig) -> list[str]:
    """Return the file of a custom loss, [] for other losses: if it changes, the stage runs again."""
    return [user_code_file(config.loss)] if is_user_code(config.loss) else []


def evaluation_files(config: TrainConfig) -> list[str]:
    """Return the files on which a training stage is evaluated."""
    pairs = [] if config.eval is None else corpus_files(config.eval.corpus)
    if config.dev is None:
        return pairs
    return [*pairs, *corpus_files(config.dev), *code_files(config.dev.metrics), *utility_code(config.dev.decoding)]


def utility_code(config: TranslateConfig) -> list[str]:
    """Return the file of the utility of MBR, if it is custom code."""
    return [] if config.mbr is None else code_files([config.mbr])
