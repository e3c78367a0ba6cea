"""The commands `mtcpo run` and `mtcpo recipes`."""

from __future__ import annotations

from pathlib import Path

import click

from mtcpo.cli.options import CommonOptions, with_options
from mtcpo.core.outputs import writing
from mtcpo.core.processes import require_torch_launcher


@click.command(short_help="Run all stages of a recipe.")
@click.argument("recipe")
@click.option("--output-dir", type=click.Path(path_type=Path), help="Run directory; default: runs/NAME.")
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing.")
@with_options(common=CommonOptions)
def run(recipe: str, output_dir: Path | None, dry_run: bool, common: CommonOptions) -> None:
    """Run all stages of RECIPE: a file, or the name of a shipped recipe. Finished stages are skipped."""
    from mtcpo.evaluation.document import read_document
    from mtcpo.pipeline.recipe import find_recipe, load_recipe
    from mtcpo.pipeline.recipe_stages import make_stages
    from mtcpo.pipeline.run import run_recipe
    from mtcpo.pipeline.stages import plan
    from mtcpo.report.terminal_table import print_table

    # Before the recipe is read: with plain srun, every process would complain about it.
    require_torch_launcher()
    path = find_recipe(recipe)
    loaded = load_recipe(path, common.overrides, common.allow_code)
    folder = output_dir or Path("runs") / path.stem
    if dry_run:
        for line in plan(make_stages(loaded, folder, common.allow_code), folder):
            click.echo(line)
        return
    # overwrite=True: for a run directory, each stage decides what may be replaced.
    with writing(folder, overwrite=True, folder=True):
        say = (lambda line: None) if common.quiet else click.echo
        report = run_recipe(loaded, folder, common.overwrite, say, common.allow_code)
    print_table(read_document(folder / "evaluation.json"))
    click.echo(f"{report}")


@click.command(short_help="List the shipped recipes.")
def recipes() -> None:
    """List the shipped recipes and what each does."""
    from mtcpo.core.resources import resource_tomls

    for name, path in resource_tomls("recipes").items():
        # The first line of a recipe is a comment that says what it does.
        first_line = path.read_text(encoding="utf-8").split("\n", 1)[0]
        click.echo(f"{name:24} {first_line.lstrip('# ')}")
