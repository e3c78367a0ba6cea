"""A recipe: one TOML file that says everything about a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mtcpo.core.config import Checked, Config, PathOrName, apply_overrides, as_value_error, load_section, read_toml
from mtcpo.core.errors import UserError, choose, nearest
from mtcpo.core.resources import resource_tomls
from mtcpo.core.user_code import CodeIfAllowed
from mtcpo.data.config import CorpusConfig
from mtcpo.data.file_formats.registry import is_table, is_text
from mtcpo.evaluation.config import RunEvaluateConfig
from mtcpo.metrics.registry import candidate_kind, is_computed, metric_kind
from mtcpo.models.config import EngineName, TranslationDType
from mtcpo.models.creation import CreateConfig
from mtcpo.models.prompts import check_prompt
from mtcpo.preferences.build import PrefsConfig
from mtcpo.training.config import TrainConfig
from mtcpo.translation.config import TranslateConfig

BASE, TUNED, CONTROL = "base", "tuned", "control"
"""The systems that a run compares: the SFT baseline, the model trained on preferences, the continued-SFT control."""


class ModelConfig(Config):
    """The model to start from: a name (alias, hub name, directory), or a new one."""

    name: PathOrName | None = None
    create: CreateConfig | None = None
    prompt: Annotated[str, Checked(check_prompt)] | None = None
    """Prompt template that replaces the family's: {source}, {src_name}, {tgt_name}, {src_code}, {tgt_code}."""
    family: Annotated[str, CodeIfAllowed] | None = None
    """`python:module:NAME`: a custom family, for a model type unknown to mtcpo."""
    dtype: TranslationDType = "auto"
    """Precision for translating; training has its own (train.dtype)."""
    engine: EngineName = "auto"
    """What translates the sources of the candidates and the test sets; see docs/decoding.md."""

    @model_validator(mode="after")
    def _one_start(self) -> ModelConfig:
        if (self.name is None) == (self.create is None):
            raise ValueError("give either model.name or [model.create]")
        return self


class FineTuneConfig(TrainConfig):
    """Supervised fine-tuning (SFT) before preference training: its corpus and training settings."""

    loss: Literal["sft"] = "sft"
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["model"] = "model"
    data: CorpusConfig


class ControlConfig(Config):
    """The continued-SFT control: trained on the references of the pairs' sources, with the settings of [train].

    args: fields of Seq2SeqTrainingArguments that differ from those of [train].
    """

    args: dict[str, Any] = Field(default_factory=dict)


class Recipe(Config):
    """All stages of a run; [sft], [translate] and [control] are optional."""

    model: ModelConfig
    data: CorpusConfig
    sft: FineTuneConfig | None = None
    translate: TranslateConfig | None = None
    """Without it, the candidates are the hypotheses of the data."""
    prefs: PrefsConfig
    train: TrainConfig
    control: ControlConfig | None = None
    evaluate: RunEvaluateConfig

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.model.create is not None and self.sft is None:
            raise ValueError("a new model cannot translate: add an [sft] section")
        has_outputs = self.data.hypotheses or self.data.hypothesis_columns or self.data.hypothesis_templates
        if self.translate is None and not has_outputs and not _holds_records(self.data.source):
            raise ValueError("no candidates: add a [translate] section, or hypotheses to [data]")
        if self.train.loss == "sft":
            raise ValueError("[train] learns from pairs; put supervised training into [sft]")
        return self

    @model_validator(mode="after")
    @as_value_error()
    def _names_are_known(self) -> Recipe:
        systems = [BASE, TUNED] + ([CONTROL] if self.control is not None else [])
        for spec in self.evaluate.metrics or ():
            metric_kind(spec)
        for spec in self.prefs.metrics:
            # Scores in the data may be named too; candidates that are yet to be translated have none.
            if is_computed(spec) or self.translate is not None:
                candidate_kind(spec)
        if self.evaluate.baseline is not None and self.evaluate.baseline not in systems:
            raise choose("baseline", self.evaluate.baseline, systems)
        return self


def _holds_records(source: str) -> bool:
    """Whether a corpus may contain candidates: only records can."""
    return not is_text(source) and not is_table(source)


def find_recipe(name: str) -> Path:
    """Return the file of a recipe, given as a path or as the name of a shipped one.

    Raises:
        UserError: neither; the message names the shipped ones.
    """
    path, shipped = Path(name), resource_tomls("recipes")
    if path.is_file():
        return path
    if name in shipped:
        return shipped[name]
    raise UserError(f"{name}: neither a file nor a shipped recipe{nearest(name, shipped)}; `mtcpo recipes` lists those")


def load_recipe(path: Path, overrides: Iterable[str] = (), allow_code: bool = False) -> Recipe:
    """Read a recipe and apply `KEY=VALUE` overrides.

    Paths in a recipe are relative to its folder, those in overrides to the working directory.

    allow_code: whether custom code named in it may run; a recipe alone cannot allow it.

    Raises:
        UserError: a key or value is wrong; the message names the key and the nearest valid one.
    """
    data = apply_overrides(read_toml(path), overrides)
    return load_section(Recipe, data, str(path), base=path.resolve().parent, allow_code=allow_code)
