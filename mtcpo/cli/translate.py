"""The command `mtcpo translate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtcpo.cli.options import (
    allow_code,
    corpus_of,
    format_drops,
    languages,
    model_options,
    options_of_model,
    overwrite,
    quiet,
    section,
    settings,
    split_data_overrides,
    system_of,
)
from mtcpo.core.errors import UserError
from mtcpo.core.outputs import writing

if TYPE_CHECKING:
    from mtcpo.data.config import CorpusConfig
    from mtcpo.data.records import Segment


@click.command(short_help="Make candidates for every source.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--model", required=True, help="Alias (mt5, nllb, ...), hub name or directory.")
@languages
@click.option("--num-candidates", type=int, help="Candidates a source; default 1.")
@click.option("--sampling", type=click.Choice(["beam", "diverse", "nucleus", "epsilon"]), help="Default: beam.")
@click.option(
    "--logprobs", is_flag=True, default=None, help="Also give each candidate its log-probability (nats, summed)."
)
@click.option("--reference", "references", multiple=True, help="References to carry along; repeatable.")
@click.option("--system", help="Name of the system in the candidates; default: the model's.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="candidates.jsonl")
@model_options
@settings
@allow_code
@overwrite
def translate(
    sources: tuple[str, ...], model: str, src_lang: str | None, tgt_lang: str | None, num_candidates: int | None,
    sampling: str | None, logprobs: bool | None, references: tuple[str, ...], system: str | None, output: Path,
    dtype: Any, prompt: str | None, family: str | None, overrides: tuple[str, ...], allow_code: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Translate SOURCE files into candidates, in input order; interrupted, the same command goes on.

    Every setting of the search is reachable: --set num_beams=8 --set epsilon=0.05 --set batch_size=64
    """
    from mtcpo.data.corpora import Drops, read_corpus
    from mtcpo.data.rows import require_first
    from mtcpo.translation.config import TranslateConfig
    from mtcpo.translation.translate import translate_to_file

    values = {"num_candidates": num_candidates, "sampling": sampling, "logprobs": logprobs}
    own, of_data = split_data_overrides(overrides)
    config = section(TranslateConfig, "command line", values, own, "translate")
    if references and len(sources) > 1:
        raise UserError("--reference goes with one SOURCE; translate several files one by one")
    names = [Path(source).name for source in sources]
    if len(set(names)) < len(names):
        raise UserError(f"two sources are named {max(names, key=names.count)}; their segments would have the same ids")
    name, options = system_of(model, system), options_of_model(prompt, family, allow_code)
    drops = Drops()
    with writing(output, overwrite, inputs=[*sources, *references]):
        of_all = (references, (), src_lang, tgt_lang, of_data, allow_code)
        corpora = [corpus_of(source, *of_all) for source in sources]
        read = (segment for corpus in corpora for segment in _numbered(read_corpus(corpus, drops), corpus, corpora))
        # A mistake in the files shows before the model is loaded.
        segments = require_first(read, f"{', '.join(names)}: every source is empty")
        quiet()
        from mtcpo.translation.engines import open_engine

        with open_engine(model, name, dtype, options) as engine:
            figures = translate_to_file(engine, segments, config, output, overwrite)
    click.echo(f"{output}: {figures['segments']} sources, {config.num_candidates} candidates each{format_drops(drops)}")


def _numbered(segments: Iterator[Segment], corpus: CorpusConfig, corpora: Sequence[CorpusConfig]) -> Iterator[Segment]:
    """Keep ids apart where several files are translated into one; those of text have their file's name already."""
    from dataclasses import replace

    name = Path(corpus.source).name
    for segment in segments:
        is_apart = len(corpora) == 1 or segment.id.startswith(f"{name}:")
        yield segment if is_apart else replace(segment, id=f"{name}:{segment.id}")
