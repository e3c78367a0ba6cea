"""The command `mtcpo build-prefs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtcpo.cli import catalogues
from mtcpo.cli.configuration import load_corpus, load_options, writing_rows
from mtcpo.cli.options import (
    CommonOptions,
    LanguageOptions,
    NeuralMetricOptions,
    option,
    output_option,
    setting,
    settings_of,
    with_options,
)
from mtcpo.core.errors import UserError, counted
from mtcpo.core.processes import is_first_process

if TYPE_CHECKING:
    from mtcpo.data.pair_report import PairReport
    from mtcpo.preferences.build import PrefsConfig

TRUNCATED = " (the file ends in the middle of a line; the complete lines were used)"


@dataclass(frozen=True, slots=True)
class TextOptions:
    """A source with the outputs of several systems, instead of a file of candidates."""

    source: str | None = option("--source", help="Source text, one segment per line; or TSV, CSV, JSON Lines, Parquet.")
    references: tuple[str, ...] = option("--reference", multiple=True, help="Reference translation; repeatable.")
    hyps: tuple[str, ...] = option("--hyp", multiple=True, metavar="NAME=FILE", help="A system's output; repeatable.")

    def files(self) -> list[str | None]:
        """Return the names of all files."""
        return [self.source, *self.references, *(hyp.partition("=")[2] for hyp in self.hyps)]


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """How candidates are scored and pairs selected: fields of [prefs]."""

    metrics: tuple[str, ...] = setting(
        "--metric", multiple=True, metavar="METRIC", help="One of the metrics below; repeatable."
    )
    select: str | None = setting("--select", metavar="NAME", help="One of the selections below; default: best-worst.")
    combine: str | None = setting(
        "--combine", metavar="NAME", help="How to combine several metrics, see below; default: mean."
    )
    min_margin: float | None = setting(
        "--min-margin", type=float, help="Smallest margin: value of chosen minus value of rejected."
    )
    reference: str | None = setting(
        "--use-reference", metavar="WHEN", help="When a reference is chosen: never (default), by-score, always."
    )
    workers: int | None = setting(
        "--workers", type=int, help="Processes that compute lexical metrics; default: one per core."
    )


@click.command(
    "build-prefs",
    cls=catalogues.Command,
    catalogues={
        "Metrics": catalogues.candidate_metrics,
        "Selections": catalogues.selections,
        "Combinations": catalogues.combinations,
        "Filters (--set NAME=VALUE), and what each leaves out": catalogues.filters,
    },
    short_help="Build preference pairs from candidates.",
)
@click.argument("candidates", required=False)
@with_options(
    texts=TextOptions, languages=LanguageOptions, selection=SelectionOptions, neural_metrics=NeuralMetricOptions
)
@output_option("--output", "File to write the triplets to, such as prefs.jsonl.")
@with_options(common=CommonOptions)
def build_prefs(
    candidates: str | None,
    texts: TextOptions,
    languages: LanguageOptions,
    selection: SelectionOptions,
    neural_metrics: NeuralMetricOptions,
    output: Path,
    common: CommonOptions,
) -> None:
    """Build triplets from CANDIDATES, or from a source text with the outputs of several systems.

    A report is written next to OUTPUT (prefs-report.json and .html): how many pairs were kept, and how many were
    dropped for which reason. To resume after an interruption, repeat the command: neural scores are cached.

    Every other setting of [prefs], filters included, can be given with --set: --set max_similarity=0.9 --set
    check_script=true --set weights.chrf=2
    """
    if not is_first_process():
        return  # the first process starts one of its own for each GPU
    overrides, data_overrides = common.split()
    _check_inputs(candidates, texts)
    config = _config(selection, neural_metrics, overrides, common.allow_code)
    with writing_rows(output, common.overwrite, inputs=[candidates, *texts.files()]):
        _build(candidates or texts.source or "", texts, languages, config, output, common, data_overrides)


def _check_inputs(candidates: str | None, texts: TextOptions) -> None:
    if (candidates is None) == (texts.source is None):
        raise UserError("give either a CANDIDATES file or --source with --hyp NAME=FILE")
    if texts.source is None and (texts.references or texts.hyps):
        raise UserError("--reference and --hyp need --source; a CANDIDATES file has its own")


def _config(
    selection: SelectionOptions, neural_metrics: NeuralMetricOptions, overrides: Sequence[str], allow_code: bool
) -> PrefsConfig:
    from mtcpo.preferences.build import PrefsConfig

    sets_metrics = any(text.removeprefix("prefs.").startswith("metrics=") for text in overrides)
    if not selection.metrics and not sets_metrics:
        raise UserError("no metric to select pairs by; give one, for example --metric chrf")
    return load_options(PrefsConfig, "prefs", settings_of(selection, neural_metrics), overrides, allow_code)


def _build(
    source: str,
    texts: TextOptions,
    languages: LanguageOptions,
    config: PrefsConfig,
    output: Path,
    common: CommonOptions,
    data_overrides: Sequence[str],
) -> None:
    from mtcpo.core.files import refuse_existing
    from mtcpo.data.corpora import Drops, read_corpus
    from mtcpo.preferences.build import build_preferences, report_path_of
    from mtcpo.report.pairs_page import page_path_of, write_pair_page

    # The report and its page are outputs too: refuse existing ones before hours of scoring.
    path = report_path_of(output)
    for written_too in (path, page_path_of(path)):
        refuse_existing(written_too, common.overwrite)
    drops = Drops()
    corpus = load_corpus(source, texts.references, texts.hyps, languages, data_overrides, common.allow_code)
    report = build_preferences(read_corpus(corpus, drops), config, output, path, drops=drops)
    page = write_pair_page(path)
    _print_report(report, output)
    click.echo(f"  numbers: {path}; plots: {page}")


def _print_report(report: PairReport, output: Path) -> None:
    from mtcpo.core.progress import note

    # On stderr: scripts read the counts from stdout.
    for line in report.notes:
        note(f"mtcpo: {line}")
    click.echo(f"{output}: {counted(report.kept, 'triplet')} from {counted(report.segments, 'segment')}")
    for reason, number in sorted(report.dropped.items()):
        click.echo(f"  dropped {number}: {reason}{TRUNCATED if reason == 'truncated_line' else ''}")
