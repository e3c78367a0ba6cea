"""`mtcpo run`: run the unfinished stages of a recipe inside a run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtcpo.core.config import to_toml
from mtcpo.core.errors import UserError
from mtcpo.core.files import write_text
from mtcpo.pipeline.preflight import check_before_run
from mtcpo.pipeline.recipe import Recipe
from mtcpo.pipeline.recipe_stages import make_stages
from mtcpo.pipeline.run_directory import RunDirectory
from mtcpo.pipeline.stages import check_may_run, run_stages, unfinished
from mtcpo.pipeline.stamp import STAMP_FILE


def run_recipe(
    recipe: Recipe, folder: Path, overwrite: bool, say: Callable[[str], None], allow_code: bool = False
) -> Path:
    """Run the stages of a recipe that are not done; return the path of the report.

    say: called with each line for the user. allow_code: whether code in a model's directory may run.

    Raises:
        UserError: there are outputs with other settings, which may not be overwritten, a later stage would lack
            something, or a stage fails.
    """
    stages = make_stages(recipe, folder, allow_code)
    text, resolved = to_toml(recipe), folder / "recipe.toml"
    existing = resolved.read_text(encoding="utf-8", errors="replace") if resolved.exists() else None
    is_run = (folder / STAMP_FILE).exists()
    if existing not in (None, text) and not is_run and not overwrite:
        raise UserError(
            f"{resolved} exists but was not written by `mtcpo run`; choose another --output-dir, or pass --overwrite"
        )
    check_may_run(stages, folder, overwrite)
    waiting = unfinished(stages, folder)
    if waiting:
        from mtcpo.core.progress import quiet_libraries

        # Before the checks, which may import transformers: it writes to the terminal on import.
        quiet_libraries()
        check_before_run(RunDirectory(recipe, folder.resolve(), allow_code), waiting)
    # After the checks: a refused run leaves the directory unchanged.
    if existing != text:
        write_text(resolved, text)
    run_stages(stages, folder, overwrite, say)
    return folder / "report.html"
