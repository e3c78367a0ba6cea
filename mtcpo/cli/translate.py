"""The command `mtcpo translate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtcpo.cli import catalogues
from mtcpo.cli.configuration import format_drops, load_corpus, load_options, system_name, writing_rows
from mtcpo.cli.options import (
    CommonOptions,
    LanguageOptions,
    ModelLoadingOptions,
    output_option,
    setting,
    settings_of,
    with_options,
)
from mtcpo.core.errors import UserError, counted

if TYPE_CHECKING:
    from mtcpo.data.config import CorpusConfig
    from mtcpo.data.corpora import Drops
    from mtcpo.data.records import Segment


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search or sample."""

    num_candidates: int | None = setting("--num-candidates", type=int, help="Candidates for each source; default: 1.")
    sampling: str | None = setting(
        "--sampling",
        type=click.Choice(["beam", "diverse", "nucleus", "top-k", "epsilon"]),
        help="Beam search, diverse beam search, or sampling; default: beam.",
    )
    logprobs: bool | None = setting(
        "--logprobs",
        is_flag=True,
        default=None,
        help="Add each candidate's log-probability (in nats, summed over its tokens).",
    )


@click.command(
    cls=catalogues.Command,
    catalogues={"Short names for --model": catalogues.models},
    short_help="Translate sources into candidates.",
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--model", required=True, help="A short name listed below, a hub name or a directory.")
@with_options(languages=LanguageOptions, search=SearchOptions)
@click.option(
    "--reference", "references", multiple=True, help="Reference translation to copy into the output; repeatable."
)
@click.option("--system", help="System name for the candidates; default: the last part of the model's name.")
@output_option("--output", "File to write the candidates to, such as candidates.jsonl.")
@with_options(loading=ModelLoadingOptions, common=CommonOptions)
def translate(
    sources: tuple[str, ...],
    model: str,
    languages: LanguageOptions,
    search: SearchOptions,
    references: tuple[str, ...],
    system: str | None,
    output: Path,
    loading: ModelLoadingOptions,
    common: CommonOptions,
) -> None:
    """Translate SOURCE files into candidates, in input order. To resume after an interruption, repeat the command.

    Any decoding setting can be given with --set: --set num_beams=8 --set epsilon=0.05 --set batch_size=64

    \b
    Several searches together: --set 'mix=[{sampling="beam",num_candidates=4},{sampling="epsilon",num_candidates=4}]'
    """
    from mtcpo.core.progress import quiet_libraries
    from mtcpo.data.corpora import Drops
    from mtcpo.data.rows import require_first
    from mtcpo.translation.config import TranslateConfig
    from mtcpo.translation.translate import translate_to_file

    overrides, data_overrides = common.split()
    config = load_options(TranslateConfig, "translate", settings_of(search), overrides)
    names = _check_sources(sources, references)
    system, options = system_name(model, system), loading.checked(common.allow_code)
    drops = Drops()
    with writing_rows(output, common.overwrite, inputs=[*sources, *references]):
        corpora = [
            load_corpus(source, references, (), languages, data_overrides, common.allow_code) for source in sources
        ]
        # Reads the first segment: a mistake in the files shows before a model is loaded.
        segments = require_first(_read(corpora, drops), f"{', '.join(names)}: every source is empty")
        quiet_libraries()
        from mtcpo.translation.engines.registry import open_engine

        with open_engine(model, system, loading.dtype, options) as engine:
            figures = translate_to_file(engine, segments, config, output, common.overwrite)
    counts = f"{counted(figures['segments'], 'source')}, {counted(config.num_candidates, 'candidate')} each"
    click.echo(f"{output}: {counts}{_format_redraws(figures)}{format_drops(drops)}")


def _format_redraws(figures: Mapping[str, int]) -> str:
    """Say how many samples were drawn again, and how many candidates are still duplicates; "" if there were none."""
    if not figures.get("drawn_again") and not figures.get("still_duplicate"):
        return ""
    left = counted(figures.get("still_duplicate", 0), "duplicate")
    return f"; {counted(figures.get('drawn_again', 0), 'sample')} drawn again, {left} left"


def _check_sources(sources: Sequence[str], references: Sequence[str]) -> list[str]:
    """Return the names of the files, which must differ, because segments get their ids from them."""
    if references and len(sources) > 1:
        raise UserError("--reference needs a single SOURCE; translate several files one by one")
    names = [Path(source).name for source in sources]
    if len(set(names)) < len(names):
        raise UserError(f"two sources are named {max(names, key=names.count)}; their segments would have the same ids")
    return names


def _read(corpora: Sequence[CorpusConfig], drops: Drops) -> Iterator[Segment]:
    from mtcpo.data.corpora import read_corpus

    for corpus in corpora:
        segments = read_corpus(corpus, drops)
        yield from segments if len(corpora) == 1 else _with_file_name(segments, Path(corpus.source).name)


def _with_file_name(segments: Iterable[Segment], name: str) -> Iterator[Segment]:
    """Prefix ids with the name of their file; segments of plain text have it already."""
    from dataclasses import replace

    for segment in segments:
        yield segment if segment.id.startswith(f"{name}:") else replace(segment, id=f"{name}:{segment.id}")
