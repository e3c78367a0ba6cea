"""The command `mtcpo evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtcpo.cli import catalogues
from mtcpo.cli.configuration import load_options, system_name
from mtcpo.cli.options import (
    MBR_HELP,
    CommonOptions,
    EngineOptions,
    LanguageOptions,
    ModelLoadingOptions,
    NeuralMetricOptions,
    option,
    output_option,
    setting,
    settings_of,
    with_options,
)
from mtcpo.core.errors import UserError
from mtcpo.core.outputs import writing
from mtcpo.core.processes import is_first_process

if TYPE_CHECKING:
    from mtcpo.evaluation.config import EvaluateConfig, RunEvaluateConfig
    from mtcpo.evaluation.results import Evaluation


@dataclass(frozen=True, slots=True)
class SystemOptions:
    """What is evaluated: models, files of outputs, or run directories."""

    compare: bool = option("--compare", is_flag=True, help="Compare the systems of the evaluated run directories RUN.")
    model: str | None = option("--model", help="Model to translate with: a short name, a hub name or a directory.")
    baseline_model: str | None = option("--baseline-model", help="A second model to compare --model with.")
    hyps: tuple[str, ...] = option("--hyp", multiple=True, metavar="NAME=FILE", help="A system's output; repeatable.")
    submitted: bool | None = setting(
        "--submitted", is_flag=True, default=None, help="Also score the systems submitted to the shared task."
    )

    def models(self) -> dict[str, str]:
        """Return the models by system name, the baseline first."""
        if self.model is None:
            return {}
        if self.baseline_model is None:
            return {system_name(self.model): self.model}
        models = {system_name(self.baseline_model): self.baseline_model, system_name(self.model): self.model}
        # Two paths may have the same last part.
        return models if len(models) == 2 else {"baseline": self.baseline_model, "model": self.model}


@dataclass(frozen=True, slots=True)
class TestSetOptions:
    """On which test sets."""

    suites: tuple[str, ...] = setting(
        "--suite", multiple=True, help="Test sets: wmt22:de-en, a shipped suite, or a suite file; repeatable."
    )
    test_set_dir: Path | None = setting(
        "--test-set-dir",
        type=click.Path(path_type=Path),
        help="Folder with test sets as WMT, FLORES-200 or Multi30k publish them.",
    )
    source: str | None = option("--source", help="Source text of your own test set.")
    references: tuple[str, ...] = option(
        "--reference", multiple=True, metavar="[NAME=]FILE", help="Reference of your own test set; repeatable."
    )
    each_reference: bool | None = setting(
        "--each-reference", is_flag=True, default=None, help="Also score with each reference alone: bleu-A, bleu-B."
    )

    def files(self) -> list[Path]:
        """Return the files of the user's own test set."""
        if self.source is None:
            return []
        return [Path(self.source), *(Path(file.partition("=")[2] or file) for file in self.references)]


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How a model's outputs are found."""

    mbr: str | None = setting("--mbr", key="decoding.mbr", metavar="METRIC", help=MBR_HELP)
    num_candidates: int | None = setting(
        "--num-candidates", key="decoding.num_candidates", type=int, help="Candidates for --mbr; default: 16."
    )


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """By which metrics, and against which system."""

    metrics: tuple[str, ...] = setting(
        "--metric",
        multiple=True,
        metavar="METRIC",
        help="One of the metrics below; default: those of the suite, or bleu, chrf.",
    )
    baseline: str | None = setting("--baseline", help="System to compare the others with; default: the first.")


@click.command(
    cls=catalogues.Command,
    catalogues={"Metrics": catalogues.metrics},
    short_help="Score models or outputs, with significance tests.",
)
@click.argument("runs", nargs=-1, metavar="[RUN...]", type=click.Path(path_type=Path))
@with_options(
    systems=SystemOptions,
    test_sets=TestSetOptions,
    languages=LanguageOptions,
    decoding=DecodingOptions,
    scoring=ScoringOptions,
    neural_metrics=NeuralMetricOptions,
)
@output_option("--output-dir", "Directory to write evaluation.json, translations and report.html to.", required=False)
@with_options(loading=ModelLoadingOptions, running=EngineOptions, common=CommonOptions)
def evaluate(
    runs: tuple[Path, ...],
    systems: SystemOptions,
    test_sets: TestSetOptions,
    languages: LanguageOptions,
    decoding: DecodingOptions,
    scoring: ScoringOptions,
    neural_metrics: NeuralMetricOptions,
    output_dir: Path | None,
    loading: ModelLoadingOptions,
    running: EngineOptions,
    common: CommonOptions,
) -> None:
    """Score models on test sets, or files of outputs against references, with signatures and significance tests.

    Writes evaluation.json, tables for papers (.md, .tex), the translations and report.html to --output-dir.
    """
    from mtcpo.data.corpora import parse_named_files

    if not is_first_process():
        return  # the first process starts one of its own for each GPU
    values = settings_of(systems, test_sets, decoding, scoring, neural_metrics)
    config = _config(values | {"sets": tuple(_test_set_in_files(test_sets, languages))}, common)
    _check(runs, systems, test_sets, config)
    files = {name: Path(file) for name, file in parse_named_files(systems.hyps).items()}
    models = systems.models()
    options = loading.checked(common.allow_code, running.engine)

    # A function, since the output is checked and locked before the work begins.
    def evaluations() -> list[Evaluation]:
        from mtcpo.core.progress import note, quiet_libraries
        from mtcpo.evaluation.compare_runs import compare_runs
        from mtcpo.evaluation.systems import evaluate_files, evaluate_models

        if systems.compare:
            # Notes go to stderr: stdout has nothing but the table.
            return compare_runs(runs, config, note)
        if not models:
            return evaluate_files(config, files, output_dir)
        quiet_libraries()
        return evaluate_models(config, models, config.decoding, running.dtype, options, output_dir)

    inputs = files | {str(file): file for file in test_sets.files()}
    inputs |= {str(run): run / "evaluation.json" for run in runs}
    _publish(evaluations, config, inputs, bool(models), output_dir, common.overwrite)


def _config(values: dict[str, Any], common: CommonOptions) -> RunEvaluateConfig:
    from mtcpo.evaluation.config import RunEvaluateConfig

    return load_options(RunEvaluateConfig, "evaluate", values, common.overrides, common.allow_code)


def _test_set_in_files(test_sets: TestSetOptions, languages: LanguageOptions) -> list[dict[str, Any]]:
    """Return the user's own test set, as an entry of `sets`; [] without --source."""
    from mtcpo.data.languages import check_language

    if test_sets.source is None:
        return []
    if languages.src_lang is None or languages.tgt_lang is None:
        raise UserError("--source needs --src-lang and --tgt-lang")
    named = [_named_reference(text) for text in test_sets.references]
    return [
        {
            "name": Path(test_sets.source).name.partition(".")[0] or "test",
            "source": test_sets.source,
            "references": [file for _, file in named],
            "reference_names": [name for name, _ in named],
            "src_lang": check_language(languages.src_lang),
            "tgt_lang": check_language(languages.tgt_lang),
        }
    ]


def _named_reference(text: str) -> tuple[str, str]:
    """Split `A=FILE`; without a name, or if the whole text is a file, the name is the file's."""
    name, equals, file = text.partition("=")
    # A file may have an equals sign in its own name.
    if Path(text).exists() or not equals:
        return Path(text).name, text
    return name or Path(file).name, file


def _check(runs: Sequence[Path], systems: SystemOptions, test_sets: TestSetOptions, config: RunEvaluateConfig) -> None:
    """Refuse options that do not go together."""
    if systems.compare:
        if systems.model or systems.hyps or test_sets.source or config.suites:
            raise UserError(
                "--compare takes run directories only, and nothing to score: mtcpo evaluate --compare RUN1 RUN2"
            )
        return
    if runs:
        raise UserError(
            f"unexpected argument {str(runs[0])!r}: files need an option such as --hyp, run directories need --compare"
        )
    # Submitted systems may be scored alone, or beside a model or files.
    has_model, has_outputs = systems.model is not None, bool(systems.hyps or config.submitted)
    if (has_model and systems.hyps) or not (has_model or has_outputs):
        raise UserError("give either --model, or outputs to score: --hyp NAME=FILE")
    # Outputs of files are scored as they are; silently ignoring the option would pass for MBR.
    if not has_model and config.decoding.mbr is not None:
        raise UserError("--mbr chooses among a model's candidates, and there is no --model that makes any")
    if not has_model and systems.baseline_model is not None:
        raise UserError(
            "--baseline-model needs --model; to choose the baseline among --hyp outputs, pass --baseline NAME"
        )
    if test_sets.source is None and test_sets.references:
        raise UserError("--reference needs --source; test sets of a --suite have their own")


def _publish(
    evaluations: Callable[[], list[Evaluation]],
    config: EvaluateConfig,
    inputs: Mapping[str, Path],
    gpus: bool,
    output_dir: Path | None,
    overwrite: bool,
) -> None:
    """Evaluate, write the results to `output_dir` if there is one, and print the table."""
    import time

    from mtcpo.evaluation.results import to_document, write_evaluation
    from mtcpo.evaluation.systems import forget_translations, made_by
    from mtcpo.report.terminal_table import print_table

    # Including the loading of models and metrics: the time that a user waits.
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
        # Kept until now, so that the same command can resume after an interrupt.
        forget_translations(output_dir)
    print_table(document)
    click.echo(f"{path}\n{report}")
