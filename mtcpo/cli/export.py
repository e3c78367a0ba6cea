"""The command `mtcpo export`."""

from __future__ import annotations

from pathlib import Path

import click

from mtcpo.cli.options import allow_code, format_drops, languages, overwrite, preference_set_of, settings
from mtcpo.core.outputs import writing


@click.command(short_help="Write triplets for another trainer.")
@click.argument("prefs")
@click.option("--to", "target", type=click.Choice(["trl"]), required=True)
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--prompt", default="{source}", help="Template: {source}, {src_name}, {tgt_name}; default: the source.")
@languages
@settings
@allow_code
@overwrite
def export(
    prefs: str, target: str, output: Path, prompt: str, src_lang: str | None, tgt_lang: str | None,
    overrides: tuple[str, ...], allow_code: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Write triplets in the layout of another trainer: TRL's standard prompt, chosen, rejected."""
    from mtcpo.data.corpora import Drops
    from mtcpo.data.row_files import write_row_file
    from mtcpo.data.triplets import open_triplets, triplets_to_trl
    from mtcpo.models.prompts import check_prompt

    check_prompt(prompt, ("source", "src_name", "tgt_name"))
    drops = Drops()
    with writing(output, overwrite, inputs=[prefs]):
        preferences = preference_set_of(prefs, src_lang, tgt_lang, overrides, allow_code)
        count = write_row_file(output, triplets_to_trl(open_triplets(preferences, drops), prompt))
    click.echo(f"{output}: {count} rows{format_drops(drops)}")
