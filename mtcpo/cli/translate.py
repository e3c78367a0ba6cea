"""The commands `mtcpo translate` and `mtcpo merge`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtcpo.cli import catalogues
from mtcpo.cli.configuration import format_drops, load_corpus, load_options, system_name, writing_rows
from mtcpo.cli.options import (
    MBR_HELP,
    CometOptions,
    CommonOptions,
    EngineOptions,
    LanguageOptions,
    ModelLoadingOptions,
    output_option,
    setting,
    settings_of,
    with_options,
)
from mtcpo.core.errors import UserError, counted
from mtcpo.core.processes import is_written_by_others, this_process

if TYPE_CHECKING:
    from mtcpo.data.config import CorpusConfig
    from mtcpo.data.corpora import Drops
    from mtcpo.data.records import Segment
    from mtcpo.translation.config import TranslateConfig


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search or sample."""

    num_candidates: int | None = setting(
        "--num-candidates", type=int, help="Candidates for each source; default: 1, with --mbr 16."
    )
    sampling: str | None = setting(
        "--sampling",
        type=click.Choice(["beam", "diverse", "nucleus", "top-k", "epsilon"]),
        help="Beam search, diverse beam search, or sampling; default: beam, with --mbr epsilon.",
    )
    mbr: str | None = setting("--mbr", metavar="METRIC", help=MBR_HELP)
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
@with_options(languages=LanguageOptions, search=SearchOptions, comet=CometOptions)
@click.option(
    "--reference", "references", multiple=True, help="Reference translation to copy into the output; repeatable."
)
@click.option("--system", help="System name for the candidates; default: the last part of the model's name.")
@click.option(
    "--shard", metavar="I/N", help="Translate one of N parts of the sources, from 1/N to N/N; `mtcpo merge` joins them."
)
@output_option("--output", "File to write the candidates to, such as candidates.jsonl.")
@with_options(loading=ModelLoadingOptions, running=EngineOptions, common=CommonOptions)
def translate(
    sources: tuple[str, ...],
    model: str,
    languages: LanguageOptions,
    search: SearchOptions,
    comet: CometOptions,
    references: tuple[str, ...],
    system: str | None,
    shard: str | None,
    output: Path,
    loading: ModelLoadingOptions,
    running: EngineOptions,
    common: CommonOptions,
) -> None:
    """Translate SOURCE files into candidates, in input order. To resume after an interruption, repeat the command.

    Any decoding setting can be given with --set: --set num_beams=8 --set epsilon=0.05 --set batch_size=64

    \b
    Several searches together: --set 'mix=[{sampling="beam",num_candidates=4},{sampling="epsilon",num_candidates=4}]'

    For several GPUs or machines: accelerate launch -m mtcpo translate ..., torchrun or srun; without any, --shard.
    """
    from mtcpo.core.progress import quiet_libraries
    from mtcpo.data.corpora import Drops
    from mtcpo.data.rows import require_first
    from mtcpo.translation.config import TranslateConfig
    from mtcpo.translation.shards import parse_shard
    from mtcpo.translation.translate import translate_to_file
    from mtcpo.translation.windows import Part

    part = Part(*parse_shard(shard or "1/1"), this_process())
    if part.process.rank > 0 and is_written_by_others(output):
        return  # nothing was left for this process, and the others are already done
    overrides, data_overrides = common.split()
    config = load_options(TranslateConfig, "translate", settings_of(search, comet), overrides, common.allow_code)
    names = _check_sources(sources, references)
    system, options = system_name(model, system), loading.checked(common.allow_code, running.engine)
    drops = Drops()
    with writing_rows(output, common.overwrite, inputs=[*sources, *references]):
        corpora = [
            load_corpus(source, references, (), languages, data_overrides, common.allow_code) for source in sources
        ]
        # Reads the first segment: a mistake in the files shows before a model is loaded.
        segments = require_first(_read(corpora, drops), f"{', '.join(names)}: every source is empty")
        quiet_libraries()
        from mtcpo.translation.engines.registry import look_ahead, open_engine

        job, segments = look_ahead(segments, config, _count(corpora))
        with open_engine(model, system, running.dtype, options, job) as engine:
            figures = translate_to_file(engine, segments, config, output, common.overwrite, part)
    # The first process has joined the output, and speaks for all.
    if part.process.rank > 0:
        return
    counts = f"{counted(figures['segments'], 'source')}, {counted(config.outputs, 'candidate')} each"
    click.echo(f"{output}: {counts}{_chosen_by(config)}{_format_counts(figures)}{format_drops(drops)}")


def _format_counts(figures: Mapping[str, int]) -> str:
    """Return what happened besides translating, such as "; too long: 2"; "" if nothing did."""
    from mtcpo.translation.decoding import incidents

    return "".join(f"; {name.replace('_', ' ')}: {number}" for name, number in incidents(figures).items())


def _chosen_by(config: TranslateConfig) -> str:
    """Return how the candidates were chosen, for the last line; "" without MBR."""
    from mtcpo.translation.mbr import describe_mbr

    return f", by {describe_mbr(config)}" if config.mbr else ""


def _check_sources(sources: Sequence[str], references: Sequence[str]) -> list[str]:
    """Return the names of the files, which must differ, because segments get their ids from them."""
    if references and len(sources) > 1:
        raise UserError("--reference needs a single SOURCE; translate several files one by one")
    # Without folders: ids should not depend on where the files are.
    names = [Path(source).name for source in sources]
    if len(set(names)) < len(names):
        raise UserError(f"two sources are named {max(names, key=names.count)}; their segments would have the same ids")
    return names


def _read(corpora: Sequence[CorpusConfig], drops: Drops) -> Iterator[Segment]:
    from mtcpo.data.corpora import read_corpus

    for corpus in corpora:
        segments = read_corpus(corpus, drops)
        yield from segments if len(corpora) == 1 else _with_file_name(segments, Path(corpus.source).name)


def _count(corpora: Sequence[CorpusConfig]) -> int | None:
    """Return the number of sources, for the time left; None if they are not files that can be read twice."""
    from itertools import chain

    from mtcpo.data.corpora import Drops

    files = chain.from_iterable((corpus.source, *corpus.references) for corpus in corpora)
    # A pipe would be used up, and a data set by name may be downloaded.
    if not all(Path(str(file)).is_file() for file in files):
        return None
    return sum(1 for _ in _read(corpora, Drops()))


def _with_file_name(segments: Iterable[Segment], name: str) -> Iterator[Segment]:
    """Prefix ids with the name of their file; segments of plain text have it already."""
    from dataclasses import replace

    for segment in segments:
        yield segment if segment.id.startswith(f"{name}:") else replace(segment, id=f"{name}:{segment.id}")


@click.command(short_help="Join the shards of a translation.")
@click.argument("shards", nargs=-1, required=True, metavar="SHARD...", type=click.Path(path_type=Path))
@output_option("--output", "File to write the candidates to, such as candidates.jsonl.")
@click.option("--overwrite", is_flag=True, help="Replace existing output.")
def merge(shards: tuple[Path, ...], output: Path, overwrite: bool) -> None:
    """Join all SHARD files, the outputs of `mtcpo translate --shard`, in the order of their sources."""
    from mtcpo.translation.shards import merge_shards

    with writing_rows(output, overwrite, inputs=map(str, shards)):
        total = merge_shards(shards, output)
    counts = f"{counted(total['segments'], 'source')}, {counted(total['candidates'], 'candidate')}"
    click.echo(f"{output}: {counts}{_format_counts(total)}")
