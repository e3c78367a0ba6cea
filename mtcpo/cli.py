"""The command line. Each command parses, calls one function and prints one result; heavy imports stay inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from mtcpo import __version__
from mtcpo.modelcommands import train, translate
from mtcpo.options import allow_code, overwrite, settings
from mtcpo.outputs import writing
from mtcpo.paircommands import build_prefs, export
from mtcpo.scorecommands import evaluate
from mtcpo.terminal import Group, run_and_leave


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit code: 0 done, 1 our fault, 2 the user's mistake, 130 interrupted."""
    run_and_leave(mtcpo, arguments)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mtcpo")
def mtcpo() -> None:
    """Preference training of machine-translation models.

    Build triplets (source, chosen, rejected) from scored MT outputs, train with CPO and its relatives, evaluate on
    WMT test sets. `mtcpo run demo` does all of it in a few minutes.
    """


@click.command(short_help="Run all stages of a recipe.")
@click.argument("recipe")
@settings
@click.option("--output-dir", type=click.Path(path_type=Path), help="Run directory; default: runs/NAME.")
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing.")
@allow_code
@overwrite
def run(
    recipe: str, overrides: tuple[str, ...], output_dir: Path | None, dry_run: bool, allow_code: bool, overwrite: bool
) -> None:  # fmt: skip
    """Run all stages of RECIPE (a file, or the name of a shipped one); stages that are done are skipped."""
    from mtcpo.pipeline import run_recipe, stages_of
    from mtcpo.recipe import find_recipe, load_recipe
    from mtcpo.stages import plan
    from mtcpo.tables import print_table

    path = find_recipe(recipe)
    loaded = load_recipe(path, overrides, allow_code)
    folder = output_dir or Path("runs") / path.stem
    if dry_run:
        for line in plan(stages_of(loaded, folder), folder):
            click.echo(line)
        return
    with writing(folder, overwrite=True, folder=True):  # its stages decide what may be replaced
        report = run_recipe(loaded, folder, overwrite, click.echo)
    print_table(json.loads((folder / "evaluation.json").read_text(encoding="utf-8")))
    click.echo(f"{report}")


@click.command()
def recipes() -> None:
    """List the shipped recipes with what they do."""
    from mtcpo.shipped import shipped_toml

    for name, path in shipped_toml("recipes").items():
        first = path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
        click.echo(f"{name:24} {first}")


@click.command(short_help="Say what this environment can do.")
def doctor() -> None:
    """Say what this environment can do, and what to install for the rest."""
    from mtcpo.doctor import check_environment

    for line in check_environment():
        click.echo(line)


for command in (translate, build_prefs, train, evaluate, run, export, recipes, doctor):
    mtcpo.add_command(command)
