"""The command line: each command parses, calls one function and prints one result. Heavy imports stay inside."""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from mtcpo import __version__
from mtcpo.errors import UserError
from mtcpo.outputs import writing

if TYPE_CHECKING:
    from mtcpo.corpora import CorpusConfig, Drops
    from mtcpo.evaluation import EvaluateConfig, Evaluation
    from mtcpo.records import Segment, Triplet

OUR_FAULT, USER_MISTAKE, INTERRUPTED = 1, 2, 130
CUT = " (the file ends in the middle of a line; the complete lines were used)"

Command = TypeVar("Command", bound=Callable[..., Any])
Item = TypeVar("Item")

_asked_to_stop = Event()
"""Set by the first signal: whatever a library makes of the interrupt, the command ends as interrupted."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit code: 0 done, 1 our fault, 2 the user's mistake, 130 interrupted."""
    _listen_for_interrupts()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of ASCII gets "?" and no crash
    try:
        _run(arguments)
    except (_Interrupted, KeyboardInterrupt):
        _asked_to_stop.set()
    except Exception:
        if not _asked_to_stop.is_set():
            raise
    # Here, where no traceback holds the frames of what was interrupted any more.
    if _asked_to_stop.is_set():
        _leave_interrupted()
    sys.exit(0)


def _run(arguments: Sequence[str] | None) -> None:
    try:
        mtcpo(arguments, prog_name="mtcpo", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(USER_MISTAKE)
    except click.UsageError as error:
        _leave(USER_MISTAKE, _usage_line(error))
    except UserError as error:
        if _asked_to_stop.is_set():
            raise
        _leave(USER_MISTAKE, str(error))
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has gone; the interpreter must not try to flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUR_FAULT)


def _leave(code: int, message: str) -> NoReturn:
    click.echo(f"mtcpo: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _leave_interrupted() -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    after_echo = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C into our line
    click.echo(f"{after_echo}mtcpo: interrupted; repeat the command to go on", err=True)
    sys.stdout.flush()
    gc.collect()  # generators that were interrupted clean up: processes end, temporary files go
    atexit._run_exitfuncs()
    # Not sys.exit: Python kills itself with SIGINT at its end where an interrupt has passed through an exec().
    os._exit(INTERRUPTED)


def _listen_for_interrupts() -> None:
    def interrupt(number: int, frame: Any) -> NoReturn:
        _asked_to_stop.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    # A shell starts background jobs with SIGINT ignored, and so it stays.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)


def _usage_line(error: click.UsageError) -> str:
    """Return click's message as one line: `missing option '--output'; see mtcpo train --help`."""
    message = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "mtcpo"
    return f"{message[:1].lower()}{message[1:]}; see {command} --help"


class _Interrupted(BaseException):
    """A KeyboardInterrupt on its way out of click, which would put an empty line before our own."""


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mtcpo")
def mtcpo() -> None:
    """Preference training of machine-translation models.

    Build triplets (source, chosen, rejected) from scored MT outputs, train with CPO and its relatives, evaluate on
    WMT test sets. `mtcpo run demo` does all of it in a few minutes.
    """


# --- options that several commands share ----------------------------------------------------------------------------


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


languages = _options(
    click.option("--src-lang", metavar="LANG", help="Language of the source, BCP-47 (de, zh-Hans)."),
    click.option("--tgt-lang", metavar="LANG", help="Language of the translations, BCP-47."),
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
settings = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any other setting, as a recipe names it."
)
allow_code = click.option(
    "--allow-code",
    is_flag=True,
    help="Let a source (python:package.module:Class, data.options: arguments) or a metric be code of yours.",
)
model_options = _options(
    click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto"),
    click.option("--prompt", help="Template in place of the family's own, for example 'translate: {source}'."),
)
comet_options = _options(
    click.option("--comet-python", metavar="PYTHON", help="Interpreter of another environment that has unbabel-comet."),
    click.option(
        "--comet-precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        help="Default: fp32 on a CPU, bf16 on a GPU.",
    ),
)
metrics = click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="bleu, spbleu, chrf, chrf++, ter, comet, cometkiwi, ...; repeatable.",
)


def _section(
    cls: Any, where: str, values: dict[str, Any], overrides: Iterable[str] = (), prefix: str = "", code: bool = False
) -> Any:
    """Check the values of a command line, unset ones left out, against a section of the configuration.

    `--set train.beta=0.2` and `--set beta=0.2` mean the same where `prefix` is "train".
    """
    from mtcpo.config import apply_overrides, load_section

    given = {key: value for key, value in values.items() if value not in (None, (), {})}
    short = [text.removeprefix(f"{prefix}.") for text in overrides]
    return load_section(cls, apply_overrides(given, short), where, allow_code=code)


def _of_data(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the settings of a command that reads a corpus: its own, and those of the corpus (`data.take=100`)."""
    data = [text for text in overrides if text.startswith("data.")]
    return [text for text in overrides if text not in data], data


def _corpus(
    source: str, references: Sequence[str], hyps: Sequence[str], src_lang: str | None, tgt_lang: str | None,
    overrides: Sequence[str] = (), code: bool = False,
) -> CorpusConfig:  # fmt: skip
    from mtcpo.corpora import CorpusConfig, parse_named_files

    values = {
        "source": source, "references": references, "hypotheses": parse_named_files(hyps),
        "src_lang": src_lang, "tgt_lang": tgt_lang,
    }  # fmt: skip
    corpus: CorpusConfig = _section(CorpusConfig, "command line", values, overrides, "data", code)
    return corpus


def _is_one_of_several() -> bool:
    """Whether a launcher started this process beside the first, which itself starts one for each GPU to score with."""
    return int(os.environ.get("RANK", "0")) > 0


def _comet(python: str | None, precision: str | None) -> dict[str, str]:
    """Return what was said of how COMET is run; a path given here starts at the working directory."""
    from mtcpo.config import CommandLineText

    given = {"python": python and CommandLineText(python), "precision": precision}
    return {key: value for key, value in given.items() if value is not None}


# --- commands -------------------------------------------------------------------------------------------------------


@mtcpo.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--model", required=True, help="Alias (mt5, nllb, ...), hub name or directory.")
@languages
@click.option("--num-candidates", type=int, help="Candidates a source; default 1.")
@click.option("--sampling", type=click.Choice(["beam", "diverse", "nucleus", "epsilon"]), help="Default: beam.")
@click.option("--reference", "references", multiple=True, help="References to carry along; repeatable.")
@click.option("--system", help="Name of the system in the candidates; default: the model's.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="candidates.jsonl")
@model_options
@settings
@allow_code
@overwrite
def translate(
    sources: tuple[str, ...], model: str, src_lang: str | None, tgt_lang: str | None, num_candidates: int | None,
    sampling: str | None, references: tuple[str, ...], system: str | None, output: Path, dtype: Any,
    prompt: str | None, overrides: tuple[str, ...], allow_code: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Translate SOURCE files into candidates, in input order; interrupted, the same command goes on.

    Every setting of the search is reachable: --set num_beams=8 --set epsilon=0.05 --set batch_size=64
    """
    from mtcpo.corpora import Drops, read_corpus
    from mtcpo.recipe import check_prompt
    from mtcpo.translation import TranslateConfig, translate_to_file

    values = {"num_candidates": num_candidates, "sampling": sampling}
    own, of_data = _of_data(overrides)
    config = _section(TranslateConfig, "command line", values, own, "translate")
    if references and len(sources) > 1:
        raise UserError("--reference goes with one SOURCE; translate several files one by one")
    names = [Path(source).name for source in sources]
    if len(set(names)) < len(names):
        raise UserError(f"two sources are named {max(names, key=names.count)}; their segments would have the same ids")
    name, template = _system_of(model, system), None if prompt is None else check_prompt(prompt)
    drops = Drops()
    with writing(output, overwrite):
        of_all = (references, (), src_lang, tgt_lang, of_data, allow_code)
        corpora = [_corpus(source, *of_all) for source in sources]
        read = (segment for corpus in corpora for segment in _numbered(read_corpus(corpus, drops), corpus, corpora))
        # A mistake in the files shows before the model is loaded.
        segments = _peeked(read, f"{', '.join(names)}: every source is empty")
        _quiet()
        from mtcpo.translation.generate import open_engine

        with open_engine(model, name, dtype, template) as engine:
            figures = translate_to_file(engine, segments, config, output, overwrite)
    click.echo(f"{output}: {figures['segments']} sources, {config.num_candidates} candidates each{_told(drops)}")


def _system_of(model: str, name: str | None = None) -> str:
    """Return the name of a model's translations: the one given, or the last part of the model's."""
    from mtcpo.corpora import check_system_name

    return check_system_name(name or Path(model).resolve().name)


def _numbered(segments: Iterator[Segment], corpus: CorpusConfig, corpora: Sequence[CorpusConfig]) -> Iterator[Segment]:
    """Keep ids apart where several files are translated into one; those of text have their file's name already."""
    from dataclasses import replace

    name = Path(corpus.source).name
    for segment in segments:
        is_apart = len(corpora) == 1 or segment.id.startswith(f"{name}:")
        yield segment if is_apart else replace(segment, id=f"{name}:{segment.id}")


def _peeked(items: Iterator[Item], nothing: str) -> Iterator[Item]:
    """Return the same items once the first has been read.

    Raises:
        UserError: there is none; `nothing` says so.
    """
    first = next(items, None)
    if first is None:
        raise UserError(nothing)
    return chain([first], items)


def _told(drops: Drops) -> str:
    return "".join(f"; dropped: {number} {reason}" for reason, number in sorted(drops.items()))


@mtcpo.command("build-prefs")
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
@click.option("--select", help="best-worst (default), best-rest, all-pairs, mu-2sigma, confidence.")
@click.option("--combine", help="Several metrics: mean (default), zscore, zscore-set, rank, minimum.")
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
    from mtcpo.corpora import Drops, read_corpus
    from mtcpo.files import refuse_existing
    from mtcpo.pairpage import page_path_of, write_pair_page
    from mtcpo.preferences import PrefsConfig, build_preferences, report_path_of

    if _is_one_of_several():
        return
    if (candidates is None) == (source is None):
        raise UserError("give either a CANDIDATES file or --source with --hyp NAME=FILE")
    if source is None and (references or hyps):
        raise UserError("--reference and --hyp go with --source; a CANDIDATES file has its own")
    values = {
        "metrics": metrics, "select": select, "combine": combine, "min_margin": min_margin,
        "reference": use_reference, "score_cache": score_cache, "workers": workers,
        "comet": _comet(comet_python, comet_precision),
    }  # fmt: skip
    if not metrics and not any(text.removeprefix("prefs.").startswith("metrics=") for text in overrides):
        raise UserError("no metric to choose pairs by; give one, for example --metric chrf")
    own, of_data = _of_data(overrides)
    config = _section(PrefsConfig, "command line", values, own, "prefs", allow_code)
    drops = Drops()
    with writing(output, overwrite):
        path = report_path_of(output)
        refuse_existing(path, overwrite)
        refuse_existing(page_path_of(path), overwrite)
        corpus = _corpus(candidates or source or "", references, hyps, src_lang, tgt_lang, of_data, allow_code)
        report = build_preferences(read_corpus(corpus, drops), config, output, path, drops=drops)
        page = write_pair_page(path)
    for note in report["notes"]:
        click.echo(f"mtcpo: {note}", err=True)
    click.echo(f"{output}: {report['kept']} triplets of {report['segments']} segments")
    for reason, number in sorted(report["dropped"].items()):
        click.echo(f"  dropped {number}: {reason}{CUT if reason == 'cut_line' else ''}")
    click.echo(f"  {path} has the figures, {page} the plots")


@mtcpo.command()
@click.option("--model", required=True, help="Alias (mt5, nllb, ...), hub name or directory.")
@click.option("--prefs", help="Triplets: ours, ALMA-R's or TRL's layout; a file or a data set.")
@click.option("--source", help="With --loss sft: source text (or a file with records).")
@click.option("--reference", "references", multiple=True, help="With --loss sft: its translation.")
@languages
@click.option(
    "--loss",
    type=click.Choice(["sft", "sigmoid", "hinge", "ipo", "simpo", "alphapo", "arpo"]),
    help="Default: sigmoid (CPO).",
)
@click.option("--beta", type=float, help="Default 0.1.")
@click.option("--cpo-alpha", type=float, help="Weight of the NLL of the chosen; default 1.")
@click.option("--learning-rate", type=float, help="Default 1e-4.")
@click.option("--epochs", type=float, help="Default 1.")
@click.option("--eval-prefs", help="Triplets that training does not see; their figures are logged as eval_*.")
@click.option("--dev-source", help="Source text that is translated and scored at every evaluation.")
@click.option("--dev-reference", "dev_references", multiple=True, help="Its translation; repeatable.")
@click.option("--dev-metric", "dev_metrics", multiple=True, help="The first chooses the model; default: chrf, bleu.")
@click.option("--output-dir", required=True, type=click.Path(path_type=Path))
@model_options
@settings
@allow_code
@overwrite
def train(
    model: str, prefs: str | None, source: str | None, references: tuple[str, ...], src_lang: str | None,
    tgt_lang: str | None, loss: str | None, beta: float | None, cpo_alpha: float | None, learning_rate: float | None,
    epochs: float | None, eval_prefs: str | None, dev_source: str | None, dev_references: tuple[str, ...],
    dev_metrics: tuple[str, ...], output_dir: Path, dtype: Any, prompt: str | None,
    overrides: tuple[str, ...], allow_code: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Train on preferences, or on references with --loss sft; interrupted, the same command goes on.

    Every field of the library's training arguments is reachable: --set train.args.optim=adamw_torch_fused
    Several GPUs: accelerate launch -m mtcpo train ...
    """
    from mtcpo.corpora import Drops
    from mtcpo.recipe import check_prompt
    from mtcpo.trainconfig import TrainConfig

    if dev_source is None and (dev_references or dev_metrics):
        raise UserError("--dev-reference and --dev-metric go with --dev-source")
    spoken = {"src_lang": src_lang, "tgt_lang": tgt_lang}
    args = {"learning_rate": learning_rate, "num_train_epochs": epochs}
    values: dict[str, Any] = {"loss": loss, "beta": beta, "cpo_alpha": cpo_alpha, "dtype": dtype}
    if eval_prefs is not None:
        values["eval"] = {"prefs": eval_prefs, **spoken}
    if dev_source is not None:
        dev = {"source": dev_source, "references": dev_references, "metrics": dev_metrics, **spoken}
        values["dev"] = {key: value for key, value in dev.items() if value not in (None, ())}
    values["args"] = {key: value for key, value in args.items() if value is not None}
    own, of_data = _of_data(overrides)
    config: TrainConfig = _section(TrainConfig, "command line", values, own, "train", allow_code)
    sft = source is not None and config.loss == "sft"
    if sft == (prefs is not None) or (prefs is not None and references) or (source is not None and not sft):
        raise UserError("give --prefs FILE, or --loss sft with --source FILE --reference FILE")
    template = None if prompt is None else check_prompt(prompt)
    drops = Drops()
    with writing(output_dir, overwrite, folder=True):
        corpus = _corpus(prefs or source or "", references, (), src_lang, tgt_lang, of_data, allow_code)
        triplets = iter(()) if prefs is None else _triplets(corpus, drops)
        segments = iter(()) if source is None else _references(corpus, drops)
        _quiet()
        from mtcpo.examples import pair_texts, reference_texts
        from mtcpo.training import train

        texts = reference_texts(segments) if prefs is None else pair_texts(triplets)
        origin = prefs or source or ""
        report = train(model, texts, config, output_dir, prompt=template, origin=origin, overwrite=overwrite)
    if _is_one_of_several():  # the first one tells
        return
    drops.update(report["dropped"])
    click.echo(f"{output_dir}: {report['examples']} examples, {report['steps']} steps{_told(drops)}")
    for what, dropped in (("eval", report.get("eval_dropped")), ("dev", report.get("dev", {}).get("dropped"))):
        if dropped:
            click.echo(f"  {what}{_told(Drops(dropped))}")
    if "best" in report:
        best = report["best"]
        click.echo(f"  kept step {best['step']}, the best by {best['metric']} ({best['score']:.4g})")


def _references(corpus: CorpusConfig, drops: Drops) -> Iterator[Segment]:
    from mtcpo.corpora import read_corpus

    return _peeked(read_corpus(corpus, drops), f"{corpus.source}: every source in it is empty")


def _triplets(corpus: CorpusConfig, drops: Drops) -> Iterator[Triplet]:
    """Read triplets, the first one now."""
    from mtcpo.corpora import read_triplets

    nothing = f"{corpus.source}: no triplet in it with two different translations"
    return _peeked(read_triplets(corpus, drops), nothing)


@mtcpo.command()
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
@overwrite
def evaluate(
    runs: tuple[Path, ...], compare: bool, model: str | None, baseline_model: str | None, suites: tuple[str, ...],
    test_set_dir: Path | None, submitted: bool | None, source: str | None, references: tuple[str, ...],
    each_reference: bool | None, hyps: tuple[str, ...], src_lang: str | None, tgt_lang: str | None,
    metrics: tuple[str, ...], comet_python: str | None, comet_precision: str | None, score_cache: str | None,
    baseline: str | None, output_dir: Path | None, dtype: Any, prompt: str | None, overrides: tuple[str, ...],
    overwrite: bool,
) -> None:  # fmt: skip
    """Score a model on test sets, or output files against references, with signatures and significance.

    With --output-dir come evaluation.json, its tables for papers (.md, .tex), the translations, and report.html.
    """
    from mtcpo.corpora import parse_named_files
    from mtcpo.recipe import RunEvaluateConfig, check_prompt

    if _is_one_of_several():
        return
    sets = [] if source is None else [_own_set(source, references, src_lang, tgt_lang)]
    values = {
        "suites": suites, "sets": sets, "test_set_dir": test_set_dir and str(test_set_dir), "submitted": submitted,
        "metrics": metrics, "each_reference": each_reference, "baseline": baseline, "score_cache": score_cache,
        "comet": _comet(comet_python, comet_precision),
    }  # fmt: skip
    config = _section(RunEvaluateConfig, "command line", values, overrides, "evaluate")
    _check_evaluate(runs, compare, model, hyps, baseline_model, source, references, config)
    files = {name: Path(file) for name, file in parse_named_files(hyps).items()}
    models = {} if model is None else _two_models(model, baseline_model)
    template = None if prompt is None else check_prompt(prompt)

    def evaluations() -> list[Evaluation]:
        from mtcpo.assessment import assess_files, assess_models
        from mtcpo.comparison import compare_runs

        if compare:
            return compare_runs(runs, config)
        if not models:
            return assess_files(config, files, output_dir)
        _quiet()
        return assess_models(config, models, config.decoding, dtype, template, output_dir)

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
    """Evaluate; write what was found where it shall lie, and print it."""
    import time

    from mtcpo.assessment import made_by
    from mtcpo.evaluation import to_document, write_evaluation
    from mtcpo.tables import print_table

    started = time.perf_counter()
    if output_dir is None:
        print_table(to_document(evaluations()))
        return
    from mtcpo.report import write_report

    path = output_dir / "evaluation.json"
    with writing(path, overwrite):
        found = evaluations()
        write_evaluation(output_dir, found, overwrite, made_by(config, inputs, started, gpus))
        report = write_report(output_dir)
    print_table(to_document(found))
    click.echo(f"{path}\n{report}")


def _own_set(source: str, references: Sequence[str], src_lang: str | None, tgt_lang: str | None) -> dict[str, Any]:
    from mtcpo.languages import check_language

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
    names = {_system_of(path): path for path in (baseline, model) if path is not None}
    if baseline is not None and len(names) < 2:
        return {"baseline": baseline, "model": model}
    return names


@mtcpo.command()
@click.argument("recipe")
@settings
@click.option("--output-dir", type=click.Path(path_type=Path), help="Run directory; default: runs/NAME.")
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing.")
@allow_code
@overwrite
def run(
    recipe: str, overrides: tuple[str, ...], output_dir: Path | None, dry_run: bool, allow_code: bool, overwrite: bool
) -> None:  # fmt: skip
    """Run all stages of RECIPE (a file, or the name of a shipped one); stages that are done are skipped."""
    from mtcpo.pipeline import run_recipe, stages_of
    from mtcpo.recipe import find_recipe, load_recipe
    from mtcpo.stages import plan

    path = find_recipe(recipe)
    loaded = load_recipe(path, overrides, allow_code)
    folder = output_dir or Path("runs") / path.stem
    if dry_run:
        for line in plan(stages_of(loaded, folder), folder):
            click.echo(line)
        return
    with writing(folder, overwrite=True, folder=True):  # its stages decide what may be replaced
        report = run_recipe(loaded, folder, overwrite, click.echo)
    click.echo(f"{report}")


@mtcpo.command()
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
    from mtcpo.corpora import Drops, triplets_to_trl
    from mtcpo.files import write_json_lines
    from mtcpo.recipe import check_prompt

    check_prompt(prompt, ("source", "src_name", "tgt_name"))
    drops = Drops()
    with writing(output, overwrite):
        corpus = _corpus(prefs, (), (), src_lang, tgt_lang, overrides, allow_code)
        count = write_json_lines(output, triplets_to_trl(_triplets(corpus, drops), prompt))
    click.echo(f"{output}: {count} rows{_told(drops)}")


@mtcpo.command()
def recipes() -> None:
    """List the shipped recipes with what they do."""
    from mtcpo.shipped import shipped_toml

    for name, path in shipped_toml("recipes").items():
        first = path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
        click.echo(f"{name:24} {first}")


@mtcpo.command()
def doctor() -> None:
    """Say what this environment can do, and what to install for the rest."""
    from mtcpo.doctor import check_environment

    for line in check_environment():
        click.echo(line)


def _quiet() -> None:
    from mtcpo.progress import quiet_libraries

    quiet_libraries()
