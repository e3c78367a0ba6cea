"""The command `mtcpo export`."""

from __future__ import annotations

from pathlib import Path

import click

from mtcpo.cli.configuration import format_drops, load_preference_set, writing_rows
from mtcpo.cli.options import CommonOptions, LanguageOptions, output_option, with_options
from mtcpo.core.errors import counted


@click.command(short_help="Write triplets in another trainer's format.")
@click.argument("prefs")
@click.option("--to", "target", type=click.Choice(["trl"]), required=True, help="trl: the standard preference format.")
@output_option("--output", "File to write the exported triplets to.")
@click.option(
    "--prompt",
    default="{source}",
    show_default=True,
    help="Prompt template with the fields {source}, {src_name}, {tgt_name}.",
)
@with_options(languages=LanguageOptions, common=CommonOptions)
def export(
    prefs: str, target: str, output: Path, prompt: str, languages: LanguageOptions, common: CommonOptions
) -> None:
    """Write the triplets of PREFS in the format of another trainer: TRL's prompt, chosen, rejected."""
    from mtcpo.core.progress import Progress
    from mtcpo.data.corpora import Drops
    from mtcpo.data.file_formats.registry import write_row_file
    from mtcpo.data.triplets import open_triplets, triplets_to_trl
    from mtcpo.models.prompts import check_prompt

    # Language codes belong to a model family, and an exported file has none.
    check_prompt(prompt, ("source", "src_name", "tgt_name"))
    rows_of = {"trl": triplets_to_trl}[target]
    drops = Drops()
    with writing_rows(output, common.overwrite, inputs=[prefs]):
        preferences = load_preference_set(prefs, languages, common.overrides, common.allow_code)
        # Counted while it passes: how many there are is known only at the end.
        triplets = Progress("exporting", unit="triplets").over(open_triplets(preferences, drops))
        count = write_row_file(output, rows_of(triplets, prompt))
    click.echo(f"{output}: {counted(count, 'row')}{format_drops(drops)}")
