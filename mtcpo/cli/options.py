"""Groups of options: how a command declares them, and those that several commands share.

A group is a dataclass: each field is an option, and a command gets the values of a group as one object.

    @dataclass(frozen=True, slots=True)
    class LossOptions:
        beta: float | None = setting("--beta", type=float, help="...")
        learning_rate: float | None = setting("--learning-rate", key="args.learning_rate", type=float, help="...")

    @click.command()
    @with_options(loss=LossOptions, common=CommonOptions)
    def train(loss: LossOptions, common: CommonOptions) -> None:
        config = load_options(TrainConfig, "train", settings_of(loss), ...)

A `setting` reaches the section of the command by itself; an `option` is read by the code of the command.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mtcpo.models.config import EngineName, ModelOptions, TranslationDType

Command = Callable[..., None]

ENGINE_NAMES = ("auto", "transformers", "ctranslate2", "vllm")
"""As `mtcpo.models.config.EngineName`, which a command's `--help` should not wait for."""


def option(*names: str, **attributes: Any) -> Any:
    """Return a field of a group: `click.option` with these arguments, for what the command itself reads."""
    return field(metadata={"names": names, "attributes": attributes})


def setting(*names: str, key: str = "", **attributes: Any) -> Any:
    """Return a field of a group as `option` does, for a key of the command's section of the configuration.

    key: where in the section, as in `--set`, such as "args.learning_rate"; default: the name of the field.
    """
    return field(metadata={"names": names, "attributes": attributes, "key": key})


def settings_of(*groups: Any) -> dict[str, Any]:
    """Return the values of all settings of groups by their keys, for `load_options`."""
    values = {}
    for group in groups:
        for each in fields(group):
            if "key" in each.metadata:
                values[each.metadata["key"] or each.name] = getattr(group, each.name)
    return values


def with_options(**groups: type[Any]) -> Callable[[Command], Command]:
    """Add the options of groups to a command. groups: argument of the command -> group."""

    def add(command: Command) -> Command:
        # `wraps` also copies the options that click has already attached to the command.
        @functools.wraps(command)
        def call(**values: Any) -> None:
            for argument, group in groups.items():
                group_values = {each.name: values.pop(each.name) for each in fields(group)}
                values[argument] = group(**group_values)
            command(**values)

        # click calls a value by the last of an option's names, here the field's, and lists options in the reverse order
        # of their decorators.
        for group in reversed(groups.values()):
            for each in reversed(fields(group)):
                call = click.option(*each.metadata["names"], each.name, **each.metadata["attributes"])(call)
        return call

    return add


@dataclass(frozen=True, slots=True)
class CommonOptions:
    """Options of every command that does work."""

    overrides: tuple[str, ...] = option(
        "--set", multiple=True, metavar="KEY=VALUE", help="Any other setting, named as in a recipe; repeatable."
    )
    allow_code: bool = option(
        "--allow-code",
        is_flag=True,
        help="Allow custom Python code: python:MODULE:NAME, and code in a model's directory.",
    )
    overwrite: bool = option("--overwrite", is_flag=True, help="Replace existing output.")
    quiet: bool = option("--quiet", is_flag=True, help="Print results and errors only: no progress, no notes.")
    verbose: bool = option(
        "--verbose", is_flag=True, help="Also print settings, timings, where caches are, and the libraries' messages."
    )

    def __post_init__(self) -> None:
        """Let everything that prints know.

        Raises:
            UserError: --quiet and --verbose together.
        """
        from mtcpo.core.progress import set_verbosity

        set_verbosity(self.quiet, self.verbose)

    def split(self) -> tuple[list[str], list[str]]:
        """Split the overrides into the command's own and those of the corpus it reads (`data.take=100`)."""
        of_command: list[str] = []
        of_data: list[str] = []
        for text in self.overrides:
            (of_data if text.startswith("data.") else of_command).append(text)
        return of_command, of_data


@dataclass(frozen=True, slots=True)
class LanguageOptions:
    """The language pair."""

    src_lang: str | None = option("--src-lang", metavar="LANG", help="Source language, BCP-47: de, zh-Hans.")
    tgt_lang: str | None = option("--tgt-lang", metavar="LANG", help="Target language, BCP-47.")


@dataclass(frozen=True, slots=True)
class ModelLoadingOptions:
    """How a model is loaded."""

    prompt: str | None = option(
        "--prompt", help="Prompt template to use instead of the model family's, such as 'translate: {source}'."
    )
    family: str | None = option(
        "--family",
        metavar="python:MODULE:NAME",
        help="Your own model family, for a model type that mtcpo does not know; needs --allow-code.",
    )

    def checked(self, allow_code: bool, engine: EngineName = "auto") -> ModelOptions:
        """Return the model options of the command line, with an engine.

        Raises:
            UserError: an unknown field in the prompt, or a family that cannot be imported or is not allowed.
        """
        from mtcpo.core.user_code import check_code_allowed
        from mtcpo.models.config import ModelOptions
        from mtcpo.models.families import load_family
        from mtcpo.models.prompts import check_prompt

        template = None if self.prompt is None else check_prompt(self.prompt)
        family = None if self.family is None else check_code_allowed(self.family, allow_code)
        return ModelOptions(template, load_family(family), allow_code, engine)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What runs a model that translates, and how precisely."""

    engine: EngineName = option(
        "--engine",
        type=click.Choice(ENGINE_NAMES),
        default="auto",
        help="What runs the model; auto: the fastest that is installed and gives the outputs of transformers.",
    )
    dtype: TranslationDType = option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16", "int8"]),
        default="auto",
        help="Precision of the weights; auto: float32 on a CPU, with transformers bfloat16 on a GPU that supports it. "
        "int8: with CTranslate2.",
    )


@dataclass(frozen=True, slots=True)
class CometOptions:
    """How COMET models are run."""

    comet_python: str | None = setting(
        "--comet-python",
        key="comet.python",
        metavar="PYTHON",
        help="Python interpreter of another environment that has unbabel-comet.",
    )
    comet_precision: str | None = setting(
        "--comet-precision",
        key="comet.precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        help="Precision of COMET's encoder; default: fp32 on a CPU, bf16 on a GPU.",
    )


@dataclass(frozen=True, slots=True)
class NeuralMetricOptions(CometOptions):
    """How COMET models are run, and where their scores are cached."""

    score_cache: str | None = setting(
        "--score-cache", metavar="FILE", help="Cache of neural scores; default: scores.sqlite3 beside the output."
    )


MBR_HELP = (
    "Of many candidates, keep the one with the highest mean score by this metric against all of them (minimum Bayes "
    "risk): chrf, comet, comet:PATH, ... Candidates are epsilon samples unless the settings say otherwise."
)


def output_option(name: str, help_text: str, required: bool = True) -> Callable[[Command], Command]:
    """Return the option that names a command's output."""
    return click.option(name, required=required, type=click.Path(path_type=Path), help=help_text)
