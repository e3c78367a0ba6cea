"""The commands `mtcpo run` and `mtcpo recipes`."""

from __future__ import annotations

from pathlib import Path

import click

from mtcpo.cli.options import allow_code, overwrite, settings
from mtcpo.core.outputs import writing


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
    from mtcpo.evaluation.document import read_document
    from mtcpo.pipeline.recipe import find_recipe, load_recipe
    from mtcpo.pipeline.run import run_recipe, stages_of
    from mtcpo.pipeline.stages import plan
    from mtcpo.report.terminal_table import print_table

    path = find_recipe(recipe)
    loaded = load_recipe(path, overrides, allow_code)
    folder = output_dir or Path("runs") / path.stem
    if dry_run:
        for line in plan(stages_of(loaded, folder, allow_code), folder):
            click.echo(line)
        return
    with writing(folder, overwrite=True, folder=True):  # its stages decide what may be replaced
        report = run_recipe(loaded, folder, overwrite, click.echo, allow_code)
    print_table(read_document(folder / "evaluation.json"))
    click.echo(f"{report}")


@click.command()
def recipes() -> None:
    """List the shipped recipes with what they do."""
    from mtcpo.core.resources import resource_tomls

    for name, path in resource_tomls("recipes").items():
        first = path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
        click.echo(f"{name:24} {first}")
