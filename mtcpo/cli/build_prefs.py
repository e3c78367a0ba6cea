"""The commands of pairs: build-prefs, and export for other trainers."""

from __future__ import annotations

from pathlib import Path

import click

from mtcpo.cli.options import (
    allow_code,
    comet_options,
    comet_settings,
    corpus_of,
    is_one_of_several,
    languages,
    overwrite,
    section,
    settings,
    split_data_overrides,
)
from mtcpo.core.errors import UserError
from mtcpo.core.outputs import writing
from mtcpo.preferences.combining import combinations_help
from mtcpo.preferences.selections import selections_help

CUT = " (the file was cut in the middle of a line; the complete lines were used)"


@click.command("build-prefs", short_help="Choose pairs among candidates.")
@click.argument("candidates", required=False)
@click.option("--source", help="Source text, one segment a line (or TSV, CSV, JSON Lines, Parquet, a data set).")
@click.option("--reference", "references", multiple=True, help="Reference, line by line with the source; repeatable.")
@click.option("--hyp", "hyps", multiple=True, metavar="NAME=FILE", help="A system's output; repeatable.")
@languages
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="bleu, chrf, chrf++, ter, comet, cometkiwi, xcomet, comet:DIR; mbr:chrf, mbr:comet (the candidates against "
    "each other, no reference needed); a score that they have; NAME=python:package.module:function; repeatable.",
)
@click.option("--select", help=selections_help())
@click.option("--combine", help=combinations_help())
@click.option("--min-margin", type=float, help="Least difference of chosen and rejected.")
@click.option("--use-reference", help="References as chosen: never (default), by-score, always.")
@click.option("--score-cache", help="Keeps the scores of models; default: scores.sqlite3 beside the output.")
@comet_options
@click.option("--workers", type=int, help="Processes for BLEU, chrF and TER; default: one a core.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="prefs.jsonl")
@settings
@allow_code
@overwrite
def build_prefs(
    candidates: str | None, source: str | None, references: tuple[str, ...], hyps: tuple[str, ...],
    src_lang: str | None, tgt_lang: str | None, metrics: tuple[str, ...], select: str | None, combine: str | None,
    min_margin: float | None, use_reference: str | None, score_cache: str | None, comet_python: str | None,
    comet_precision: str | None, workers: int | None, output: Path, overrides: tuple[str, ...], allow_code: bool,
    overwrite: bool,
) -> None:  # fmt: skip
    """Build triplets from CANDIDATES, or from a source with outputs of several systems.

    Beside OUTPUT comes its report (prefs-report.json and .html): what was kept, and what was dropped for which reason.
    Interrupted, the same command again computes only the scores of models that are new. Every other setting of
    [prefs], filters among them: --set max_similarity=0.9 --set check_script=true --set weights.chrf=2
    """
    from mtcpo.core.files import refuse_existing
    from mtcpo.data.corpora import Drops, read_corpus
    from mtcpo.preferences.build import PrefsConfig, build_preferences, report_path_of
    from mtcpo.report.pairs_page import page_path_of, write_pair_page

    if is_one_of_several():
        return
    if (candidates is None) == (source is None):
        raise UserError("give either a CANDIDATES file or --source with --hyp NAME=FILE")
    if source is None and (references or hyps):
        raise UserError("--reference and --hyp go with --source; a CANDIDATES file has its own")
    values = {
        "metrics": metrics, "select": select, "combine": combine, "min_margin": min_margin,
        "reference": use_reference, "score_cache": score_cache, "workers": workers,
        "comet": comet_settings(comet_python, comet_precision),
    }  # fmt: skip
    if not metrics and not any(text.removeprefix("prefs.").startswith("metrics=") for text in overrides):
        raise UserError("no metric to choose pairs by; give one, for example --metric chrf")
    own, of_data = split_data_overrides(overrides)
    config = section(PrefsConfig, "command line", values, own, "prefs", allow_code)
    drops = Drops()
    read = [candidates, source, *references, *(hyp.partition("=")[2] for hyp in hyps)]
    with writing(output, overwrite, inputs=read):
        path = report_path_of(output)
        refuse_existing(path, overwrite)
        refuse_existing(page_path_of(path), overwrite)
        corpus = corpus_of(candidates or source or "", references, hyps, src_lang, tgt_lang, of_data, allow_code)
        report = build_preferences(read_corpus(corpus, drops), config, output, path, drops=drops)
        page = write_pair_page(path)
    for note in report.notes:
        click.echo(f"mtcpo: {note}", err=True)
    click.echo(f"{output}: {report.kept} triplets of {report.segments} segments")
    for reason, number in sorted(report.dropped.items()):
        click.echo(f"  dropped {number}: {reason}{CUT if reason == 'truncated_line' else ''}")
    click.echo(f"  {path} has the figures, {page} the plots")
