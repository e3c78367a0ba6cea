"""The command that judges: evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtcpo.cli.options import (
    allow_code,
    comet_options,
    comet_settings,
    is_one_of_several,
    languages,
    metrics,
    model_options,
    options_of_model,
    overwrite,
    quiet,
    section,
    settings,
    system_of,
)
from mtcpo.core.errors import UserError
from mtcpo.core.outputs import writing

if TYPE_CHECKING:
    from mtcpo.evaluation.config import EvaluateConfig
    from mtcpo.evaluation.results import Evaluation


@click.command(short_help="Score models or outputs, with significance.")
@click.argument("runs", nargs=-1, metavar="[RUN...]", type=click.Path(path_type=Path))
@click.option("--compare", is_flag=True, help="Compare the systems of evaluated run directories, given as RUN.")
@click.option("--model", help="Translate with this model, then score.")
@click.option("--baseline-model", help="Translate with this one too, and test the difference.")
@click.option("--suite", "suites", multiple=True, help="wmt22:de-en, a shipped suite, or a suite file; repeatable.")
@click.option("--test-set-dir", type=click.Path(path_type=Path), help="Folder of WMT's, FLORES-200's or Multi30k's.")
@click.option("--submitted", is_flag=True, default=None, help="Score the systems that took part beside yours.")
@click.option("--source", help="Source text of your own.")
@click.option("--reference", "references", multiple=True, metavar="[NAME=]FILE", help="Its reference; repeatable.")
@click.option("--each-reference", is_flag=True, default=None, help="Also against each reference alone: bleu-A, bleu-B.")
@click.option("--hyp", "hyps", multiple=True, metavar="NAME=FILE", help="A system's output; repeatable.")
@languages
@metrics
@comet_options
@click.option("--score-cache", help="Keeps the scores of models; default: scores.sqlite3 in --output-dir.")
@click.option("--baseline", help="System that the others are compared with; default: the first.")
@click.option("--output-dir", type=click.Path(path_type=Path), help="For evaluation.json, translations, report.html.")
@model_options
@settings
@allow_code
@overwrite
def evaluate(
    runs: tuple[Path, ...], compare: bool, model: str | None, baseline_model: str | None, suites: tuple[str, ...],
    test_set_dir: Path | None, submitted: bool | None, source: str | None, references: tuple[str, ...],
    each_reference: bool | None, hyps: tuple[str, ...], src_lang: str | None, tgt_lang: str | None,
    metrics: tuple[str, ...], comet_python: str | None, comet_precision: str | None, score_cache: str | None,
    baseline: str | None, output_dir: Path | None, dtype: Any, prompt: str | None, family: str | None,
    overrides: tuple[str, ...], allow_code: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Score a model on test sets, or output files against references, with signatures and significance.

    With --output-dir come evaluation.json, its tables for papers (.md, .tex), the translations, and report.html.
    """
    from mtcpo.data.corpora import parse_named_files
    from mtcpo.evaluation.config import RunEvaluateConfig

    if is_one_of_several():
        return
    sets = [] if source is None else [_own_set(source, references, src_lang, tgt_lang)]
    values = {
        "suites": suites, "sets": sets, "test_set_dir": test_set_dir and str(test_set_dir), "submitted": submitted,
        "metrics": metrics, "each_reference": each_reference, "baseline": baseline, "score_cache": score_cache,
        "comet": comet_settings(comet_python, comet_precision),
    }  # fmt: skip
    config = section(RunEvaluateConfig, "command line", values, overrides, "evaluate", allow_code)
    _check_evaluate(runs, compare, model, hyps, baseline_model, source, references, config)
    files = {name: Path(file) for name, file in parse_named_files(hyps).items()}
    models = {} if model is None else _two_models(model, baseline_model)
    options = options_of_model(prompt, family, allow_code)

    def evaluations() -> list[Evaluation]:
        from mtcpo.evaluation.compare_runs import compare_runs
        from mtcpo.evaluation.systems import evaluate_files, evaluate_models

        if compare:
            return compare_runs(runs, config, lambda line: click.echo(line, err=True))
        if not models:
            return evaluate_files(config, files, output_dir)
        quiet()
        return evaluate_models(config, models, config.decoding, dtype, options, output_dir)

    texts = [source, *(file.partition("=")[2] or file for file in references)] if source else []
    inputs = files | {text: Path(text) for text in texts if text} | {f"{run}": run / "evaluation.json" for run in runs}
    _publish(evaluations, config, inputs, bool(models), output_dir, overwrite)


def _check_evaluate(
    runs: Sequence[Path], compare: bool, model: str | None, hyps: Sequence[str], baseline_model: str | None,
    source: str | None, references: Sequence[str], config: EvaluateConfig,
) -> None:  # fmt: skip
    if compare and (model or hyps or source or config.suites):
        raise UserError("--compare takes run directories and nothing to score: mtcpo evaluate --compare RUN1 RUN2")
    if runs and not compare:
        raise UserError(f"unexpected argument {str(runs[0])!r}: files go with options, run directories with --compare")
    if compare:
        return
    if (model is None) == (not hyps) and not (config.submitted and model is None):
        raise UserError("give either --model, or outputs to score: --hyp NAME=FILE")
    if model is None and baseline_model is not None:
        raise UserError("--baseline-model goes with --model; among --hyp outputs choose one by --baseline NAME")
    if source is None and references:
        raise UserError("--reference goes with --source; test sets of a --suite have their own")


def _publish(
    evaluations: Callable[[], list[Evaluation]], config: EvaluateConfig, inputs: dict[str, Path], gpus: bool,
    output_dir: Path | None, overwrite: bool,
) -> None:  # fmt: skip
    """Evaluate, write the results to `output_dir` if there is one, and print the table."""
    import time

    from mtcpo.evaluation.results import to_document, write_evaluation
    from mtcpo.evaluation.systems import forget_translations, made_by
    from mtcpo.report.terminal_table import print_table

    started = time.perf_counter()
    if output_dir is None:
        print_table(to_document(evaluations()))
        return
    from mtcpo.report.page import write_report

    path = output_dir / "evaluation.json"
    with writing(path, overwrite):
        made = evaluations()
        document = write_evaluation(output_dir, made, overwrite, made_by(config, inputs, started, gpus))
        report = write_report(output_dir, document)
        forget_translations(output_dir)
    print_table(document)
    click.echo(f"{path}\n{report}")


def _own_set(source: str, references: Sequence[str], src_lang: str | None, tgt_lang: str | None) -> dict[str, Any]:
    from mtcpo.data.languages import check_language

    if src_lang is None or tgt_lang is None:
        raise UserError("--source needs --src-lang and --tgt-lang")
    named = [("", text) if Path(text).exists() else _named(text) for text in references]
    return {
        "name": Path(source).name.partition(".")[0] or "test", "source": source,
        "references": [file for _, file in named],
        "reference_names": [name or Path(file).name for name, file in named],
        "src_lang": check_language(src_lang), "tgt_lang": check_language(tgt_lang),
    }  # fmt: skip


def _named(text: str) -> tuple[str, str]:
    """Split `A=FILE`; a FILE alone has no name of its own."""
    name, equals, file = text.partition("=")
    return (name, file) if equals else ("", text)


def _two_models(model: str, baseline: str | None) -> dict[str, str]:
    names = {system_of(path): path for path in (baseline, model) if path is not None}
    if baseline is not None and len(names) < 2:
        return {"baseline": baseline, "model": model}
    return names
