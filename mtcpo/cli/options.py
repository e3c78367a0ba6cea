"""Options that several commands share, and how the values of a command line become sections of the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from mtcpo.data.config import CorpusConfig, PreferenceSetConfig
    from mtcpo.data.corpora import Drops
    from mtcpo.models.config import ModelOptions

Command = TypeVar("Command", bound=Callable[..., Any])


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


languages = _options(
    click.option("--src-lang", metavar="LANG", help="Language of the source, BCP-47 (de, zh-Hans)."),
    click.option("--tgt-lang", metavar="LANG", help="Language of the translations, BCP-47."),
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
settings = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any other setting, as a recipe names it."
)
allow_code = click.option(
    "--allow-code",
    is_flag=True,
    help="Run Python code of yours (a source, metric or family named python:module:NAME) or of the model's directory.",
)
model_options = _options(
    click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto"),
    click.option("--prompt", help="Template in place of the family's own, for example 'translate: {source}'."),
    click.option(
        "--family",
        metavar="python:MODULE:NAME",
        help="A Family of your own, for a model type that mtcpo does not know; needs --allow-code.",
    ),
)
comet_options = _options(
    click.option("--comet-python", metavar="PYTHON", help="Interpreter of another environment that has unbabel-comet."),
    click.option(
        "--comet-precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        help="Default: fp32 on a CPU, bf16 on a GPU.",
    ),
)
metrics = click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="bleu, spbleu, chrf, chrf++, ter, comet, cometkiwi, ...; repeatable.",
)


def section(
    cls: Any, where: str, values: dict[str, Any], overrides: Iterable[str] = (), prefix: str = "", code: bool = False
) -> Any:
    """Check the values of a command line, unset ones left out, against a section of the configuration.

    `--set train.beta=0.2` and `--set beta=0.2` mean the same where `prefix` is "train".
    """
    from mtcpo.core.config import apply_overrides, load_section

    given = {key: value for key, value in values.items() if value not in (None, (), {})}
    short = [text.removeprefix(f"{prefix}.") for text in overrides]
    return load_section(cls, apply_overrides(given, short), where, allow_code=code)


def options_of_model(prompt: str | None, family: str | None, allow_code: bool) -> ModelOptions:
    """Return what the command line says of a model beside its name, checked."""
    from mtcpo.core.user_code import check_code_allowed
    from mtcpo.models.config import ModelOptions
    from mtcpo.models.families import load_family
    from mtcpo.models.prompts import check_prompt

    template = None if prompt is None else check_prompt(prompt)
    name = None if family is None else check_code_allowed(family, allow_code)
    return ModelOptions(template, load_family(name), allow_code)


def split_data_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the overrides of a command that reads a corpus: its own, and those of the corpus (`data.take=100`)."""
    data = [text for text in overrides if text.startswith("data.")]
    return [text for text in overrides if text not in data], data


def corpus_of(
    source: str, references: Sequence[str], hyps: Sequence[str], src_lang: str | None, tgt_lang: str | None,
    overrides: Sequence[str] = (), code: bool = False,
) -> CorpusConfig:  # fmt: skip
    """Return the corpus that a command line names, checked."""
    from mtcpo.data.config import CorpusConfig
    from mtcpo.data.corpora import parse_named_files

    values = {
        "source": source, "references": references, "hypotheses": parse_named_files(hyps),
        "src_lang": src_lang, "tgt_lang": tgt_lang,
    }  # fmt: skip
    corpus: CorpusConfig = section(CorpusConfig, "command line", values, overrides, "data", code)
    return corpus


def preference_set_of(
    source: str, src_lang: str | None, tgt_lang: str | None, overrides: Sequence[str] = (), code: bool = False
) -> PreferenceSetConfig:
    """Return the preference set that a command line names, checked."""
    from mtcpo.data.config import PreferenceSetConfig

    values = {"source": source, "src_lang": src_lang, "tgt_lang": tgt_lang}
    preferences: PreferenceSetConfig = section(PreferenceSetConfig, "command line", values, overrides, "data", code)
    return preferences


def is_one_of_several() -> bool:
    """Whether a launcher started this process beside the first, which itself starts one for each GPU to score with."""
    return int(os.environ.get("RANK", "0")) > 0


def comet_settings(python: str | None, precision: str | None) -> dict[str, str]:
    """Return what was said of how COMET is run; a path given here starts at the working directory."""
    from mtcpo.core.config import CommandLineText

    given = {"python": python and CommandLineText(python), "precision": precision}
    return {key: value for key, value in given.items() if value is not None}


def system_of(model: str, name: str | None = None) -> str:
    """Return the name of a model's translations: the one given, or the last part of the model's."""
    from mtcpo.data.names import check_system_name

    return check_system_name(name or Path(model).resolve().name)


def format_drops(drops: Drops) -> str:
    """Return what was dropped as the end of a command's line, "" where nothing was."""
    return "".join(f"; dropped: {number} {reason}" for reason, number in sorted(drops.items()))


def quiet() -> None:
    """Let libraries speak only of what a user has to know."""
    from mtcpo.core.progress import quiet_libraries

    quiet_libraries()
