"""The command line: each command parses, calls one function and prints one result. Heavy imports stay inside."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from mtcpo import __version__
from mtcpo.errors import UserError

if TYPE_CHECKING:
    from mtcpo.corpora import CorpusConfig, Drops
    from mtcpo.evaluation import EvaluateConfig
    from mtcpo.records import Segment, Triplet
    from mtcpo.testsets import TestSet

OUR_FAULT, USER_MISTAKE, INTERRUPTED = 1, 2, 130

Command = TypeVar("Command", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit code: 0 done, 1 our fault, 2 the user's mistake, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        mtcpo(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(USER_MISTAKE)
    except UserError as error:
        click.echo(f"mtcpo: {error}", err=True)
        sys.exit(USER_MISTAKE)
    except (KeyboardInterrupt, click.Abort):
        click.echo("mtcpo: interrupted; the same command goes on from here", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        message = _disk_trouble(error)
        if message is None:
            raise
        click.echo(f"mtcpo: {message}", err=True)
        sys.exit(USER_MISTAKE)
    sys.exit(0)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _disk_trouble(error: BaseException | None) -> str | None:
    """Return the line for a full disk or a forbidden place, wherever in the chain of causes it hides."""
    while error is not None:
        # safetensors and torch wrap the system's error in one of their own, with its text.
        full = "No space left on device" in str(error) or "os { code: 28" in str(error).lower()
        if full or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
            where = getattr(error, "filename", None) or Path.cwd()
            return f"no space left on the disk of {where}; free some, or choose another output; then repeat the command"
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            return f"{error.filename}: {str(error.strerror).lower()}; choose another output"
        error = error.__cause__ or error.__context__
    return None


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
model_options = _options(
    click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto"),
    click.option("--prompt", help="Template in place of the family's own, for example 'translate: {source}'."),
)
metrics = click.option(
    "--metric", "metrics", multiple=True, help="bleu, chrf, chrf++, ter, comet, cometkiwi, comet:DIR; repeatable."
)


def _section(cls: Any, where: str, values: dict[str, Any], overrides: Iterable[str] = (), prefix: str = "") -> Any:
    """Check the values of a command line, unset ones left out, against a section of the configuration.

    `--set train.beta=0.2` and `--set beta=0.2` mean the same where `prefix` is "train".
    """
    from mtcpo.config import apply_overrides, load_section

    given = {key: value for key, value in values.items() if value not in (None, (), {})}
    short = [text.removeprefix(f"{prefix}.") for text in overrides]
    return load_section(cls, apply_overrides(given, short), where)


def _corpus(
    source: str, references: Sequence[str], hyps: Sequence[str], src_lang: str | None, tgt_lang: str | None
) -> CorpusConfig:
    from mtcpo.corpora import CorpusConfig, parse_named_files

    values = {
        "source": source, "references": references, "hypotheses": parse_named_files(hyps),
        "src_lang": src_lang, "tgt_lang": tgt_lang,
    }  # fmt: skip
    corpus: CorpusConfig = _section(CorpusConfig, "command line", values)
    return corpus


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
@overwrite
def translate(
    sources: tuple[str, ...], model: str, src_lang: str | None, tgt_lang: str | None, num_candidates: int | None,
    sampling: str | None, references: tuple[str, ...], system: str | None, output: Path, dtype: Any,
    prompt: str | None, overrides: tuple[str, ...], overwrite: bool,
) -> None:  # fmt: skip
    """Translate SOURCE files into candidates, in input order; interrupted, the same command goes on.

    Every setting of the search is reachable: --set num_beams=8 --set epsilon=0.05 --set batch_size=64
    """
    from mtcpo.corpora import Drops, check_system_name, read_corpus
    from mtcpo.files import refuse_existing
    from mtcpo.translation import TranslateConfig, translate_to_file

    values = {"num_candidates": num_candidates, "sampling": sampling}
    config = _section(TranslateConfig, "command line", values, overrides, "translate")
    refuse_existing(output, overwrite)
    if references and len(sources) > 1:
        raise UserError("--reference goes with one SOURCE; translate several files one by one")
    name = check_system_name(system or Path(model).name)
    drops = Drops()
    corpora = [_corpus(source, references, (), src_lang, tgt_lang) for source in sources]
    segments = (segment for corpus in corpora for segment in _numbered(read_corpus(corpus, drops), corpus, corpora))
    first = next(segments)  # a mistake in the files shows before the model is loaded
    _quiet()
    from mtcpo.translation.generate import open_engine

    with open_engine(model, name, dtype, prompt) as engine:
        figures = translate_to_file(engine, _chain(first, segments), config, output, overwrite)
    click.echo(f"{output}: {figures['segments']} sources, {config.num_candidates} candidates each{_told(drops)}")


def _numbered(segments: Iterator[Segment], corpus: CorpusConfig, corpora: Sequence[CorpusConfig]) -> Iterator[Segment]:
    """Keep ids apart where several files are translated into one."""
    from dataclasses import replace

    for segment in segments:
        yield replace(segment, id=f"{Path(corpus.source).name}:{segment.id}") if len(corpora) > 1 else segment


def _chain(first: Segment, rest: Iterator[Segment]) -> Iterator[Segment]:
    yield first
    yield from rest


def _told(drops: Drops) -> str:
    return "".join(f"; dropped: {number} {reason}" for reason, number in sorted(drops.items()))


@mtcpo.command("build-prefs")
@click.argument("candidates", required=False)
@click.option("--source", help="Source text, one segment a line (or TSV, CSV, JSON Lines, Parquet, a data set).")
@click.option("--reference", "references", multiple=True, help="Reference, line by line with the source; repeatable.")
@click.option("--hyp", "hyps", multiple=True, metavar="NAME=FILE", help="A system's output; repeatable.")
@languages
@metrics
@click.option("--select", help="How pairs are chosen; default best-worst.")
@click.option("--combine", help="Several metrics: mean (default) or zscore.")
@click.option("--min-margin", type=float, help="Least difference of chosen and rejected.")
@click.option("--include-reference", is_flag=True, default=None, help="References are candidates too.")
@click.option("--workers", type=int, help="Processes for BLEU, chrF and TER; default: one a core.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="prefs.jsonl")
@settings
@overwrite
def build_prefs(
    candidates: str | None, source: str | None, references: tuple[str, ...], hyps: tuple[str, ...],
    src_lang: str | None, tgt_lang: str | None, metrics: tuple[str, ...], select: str | None, combine: str | None,
    min_margin: float | None, include_reference: bool | None, workers: int | None, output: Path,
    overrides: tuple[str, ...], overwrite: bool,
) -> None:  # fmt: skip
    """Build triplets from CANDIDATES, or from a source with outputs of several systems.

    Beside OUTPUT comes its report (prefs-report.json): what was kept, and what was dropped for which reason.
    """
    from mtcpo.corpora import Drops, read_corpus
    from mtcpo.files import refuse_existing
    from mtcpo.preferences import PrefsConfig, build_preferences, report_path_of

    if (candidates is None) == (source is None):
        raise UserError("give either a CANDIDATES file or --source with --hyp NAME=FILE")
    values = {
        "metrics": metrics, "select": select, "combine": combine, "min_margin": min_margin,
        "include_reference": include_reference, "workers": workers,
    }  # fmt: skip
    config = _section(PrefsConfig, "command line", values, overrides, "prefs")
    refuse_existing(output, overwrite)
    corpus = _corpus(candidates or source or "", references, hyps, src_lang, tgt_lang)
    drops = Drops()
    report = build_preferences(read_corpus(corpus, drops), config, output, drops=drops)
    click.echo(f"{output}: {report['kept']} triplets of {report['segments']} segments")
    for reason, number in sorted(report["dropped"].items()):
        click.echo(f"  dropped {number}: {reason}")
    click.echo(f"  {report_path_of(output)} has the figures")


@mtcpo.command()
@click.option("--model", required=True, help="Alias (mt5, nllb, ...), hub name or directory.")
@click.option("--prefs", help="Triplets: ours, ALMA-R's or TRL's layout; a file or a data set.")
@click.option("--source", help="With --loss sft: source text (or a file with records).")
@click.option("--reference", "references", multiple=True, help="With --loss sft: its translation.")
@languages
@click.option("--loss", type=click.Choice(["sft", "sigmoid", "hinge", "ipo", "simpo"]), help="Default: sigmoid (CPO).")
@click.option("--beta", type=float, help="Default 0.1.")
@click.option("--cpo-alpha", type=float, help="Weight of the NLL of the chosen; default 1.")
@click.option("--learning-rate", type=float, help="Default 1e-4.")
@click.option("--epochs", type=float, help="Default 1.")
@click.option("--eval-prefs", help="Triplets on which the same figures are logged as eval_*.")
@click.option("--output-dir", required=True, type=click.Path(path_type=Path))
@model_options
@settings
@overwrite
def train(
    model: str, prefs: str | None, source: str | None, references: tuple[str, ...], src_lang: str | None,
    tgt_lang: str | None, loss: str | None, beta: float | None, cpo_alpha: float | None, learning_rate: float | None,
    epochs: float | None, eval_prefs: str | None, output_dir: Path, dtype: Any, prompt: str | None,
    overrides: tuple[str, ...], overwrite: bool,
) -> None:  # fmt: skip
    """Train on preferences, or on references with --loss sft; interrupted, the same command goes on.

    Every field of the library's training arguments is reachable: --set train.args.optim=adamw_torch_fused
    """
    from mtcpo.corpora import Drops, read_corpus
    from mtcpo.files import refuse_existing
    from mtcpo.trainconfig import TrainConfig

    args = {"learning_rate": learning_rate, "num_train_epochs": epochs}
    values: dict[str, Any] = {"loss": loss, "beta": beta, "cpo_alpha": cpo_alpha, "dtype": dtype}
    values["args"] = {key: value for key, value in args.items() if value is not None}
    config: TrainConfig = _section(TrainConfig, "command line", values, overrides, "train")
    refuse_existing(output_dir, overwrite)
    if (prefs is None) == (source is None) or (source is not None and config.loss != "sft"):
        raise UserError("give --prefs FILE, or --loss sft with --source FILE --reference FILE")
    _quiet()
    from mtcpo.training import pair_texts, reference_texts, train

    drops = Drops()
    if prefs is not None:
        texts = pair_texts(_triplets(prefs, src_lang, tgt_lang, drops))
    else:
        texts = reference_texts(read_corpus(_corpus(source or "", references, (), src_lang, tgt_lang), drops))
    evaluation = None if eval_prefs is None else pair_texts(_triplets(eval_prefs, src_lang, tgt_lang, Drops()))
    report = train(model, texts, config, output_dir, prompt=prompt, eval_texts=evaluation, overwrite=overwrite)
    drops.update(report["dropped"])
    click.echo(f"{output_dir}: {report['examples']} examples, {report['steps']} steps{_told(drops)}")


def _triplets(name: str, src_lang: str | None, tgt_lang: str | None, drops: Drops) -> Iterator[Triplet]:
    """Read triplets; those that do not say their languages get the command line's."""
    from dataclasses import replace

    from mtcpo.corpora import read_triplets
    from mtcpo.languages import UNDETERMINED, check_language

    for triplet in read_triplets(name, drops):
        source, target = triplet.src_lang, triplet.tgt_lang
        yield replace(
            triplet,
            src_lang=check_language(src_lang) if src_lang and source == UNDETERMINED else source,
            tgt_lang=check_language(tgt_lang) if tgt_lang and target == UNDETERMINED else target,
        )


@mtcpo.command()
@click.option("--model", help="Translate with this model, then score.")
@click.option("--baseline-model", help="Translate with this one too, and test the difference.")
@click.option("--suite", "suites", multiple=True, help="wmt22:de-en, a shipped suite, or a suite file; repeatable.")
@click.option("--test-set-dir", type=click.Path(path_type=Path), help="Folder with test sets in WMT's layout.")
@click.option("--source", help="Source text of your own.")
@click.option("--reference", "references", multiple=True, help="Its reference; repeatable.")
@click.option("--hyp", "hyps", multiple=True, metavar="NAME=FILE", help="A system's output; repeatable.")
@languages
@metrics
@click.option("--baseline", help="System that the others are compared with; default: the first.")
@click.option("--output-dir", type=click.Path(path_type=Path), help="For evaluation.json and translations.")
@model_options
@settings
@overwrite
def evaluate(
    model: str | None, baseline_model: str | None, suites: tuple[str, ...], test_set_dir: Path | None,
    source: str | None, references: tuple[str, ...], hyps: tuple[str, ...], src_lang: str | None,
    tgt_lang: str | None, metrics: tuple[str, ...], baseline: str | None, output_dir: Path | None, dtype: Any,
    prompt: str | None, overrides: tuple[str, ...], overwrite: bool,
) -> None:  # fmt: skip
    """Score a model on test sets, or output files against references, with signatures and significance."""
    from mtcpo.corpora import parse_named_files
    from mtcpo.evaluation import to_document, write_evaluation
    from mtcpo.files import refuse_existing
    from mtcpo.recipe import RunEvaluateConfig
    from mtcpo.tables import print_table

    sets = [] if source is None else [_own_set(source, references, src_lang, tgt_lang)]
    values = {
        "suites": suites, "sets": sets, "test_set_dir": test_set_dir and str(test_set_dir), "metrics": metrics,
        "baseline": baseline,
    }  # fmt: skip
    config = _section(RunEvaluateConfig, "command line", values, overrides, "evaluate")
    if output_dir is not None:
        refuse_existing(output_dir / "evaluation.json", overwrite)
    if (model is None) == (not hyps):
        raise UserError("give either --model, or outputs to score: --hyp NAME=FILE")
    files = {name: Path(file) for name, file in parse_named_files(hyps).items()}
    models = {} if model is None else _two_models(model, baseline_model)
    evaluations = list(_evaluations(config, files, models, dtype, prompt))
    if output_dir is not None:
        write_evaluation(output_dir, evaluations, overwrite)
    print_table(to_document(evaluations))
    if output_dir is not None:
        click.echo(f"{output_dir / 'evaluation.json'}")


def _own_set(source: str, references: Sequence[str], src_lang: str | None, tgt_lang: str | None) -> dict[str, Any]:
    if src_lang is None or tgt_lang is None:
        raise UserError("--source needs --src-lang and --tgt-lang")
    name = Path(source).name.partition(".")[0] or "test"
    return {
        "name": name, "source": source, "references": list(references), "src_lang": src_lang, "tgt_lang": tgt_lang
    }  # fmt: skip


def _two_models(model: str, baseline: str | None) -> dict[str, str]:
    names = {Path(path.rstrip("/")).name: path for path in (baseline, model) if path is not None}
    if baseline is not None and len(names) < 2:
        return {"baseline": baseline, "model": model}
    return names


def _evaluations(
    config: EvaluateConfig, files: dict[str, Path], models: dict[str, str], dtype: Any, prompt: str | None
) -> Iterator[Any]:
    from mtcpo.evaluation import evaluate_outputs, read_outputs
    from mtcpo.metrics import load_metric
    from mtcpo.testsets import load_test_sets

    folder = None if config.test_set_dir is None else Path(config.test_set_dir)
    test_sets = load_test_sets(config.suites, config.sets, folder)
    translated = _translations(config, models, test_sets, dtype, prompt) if models else {}
    for number, test_set in enumerate(test_sets):
        outputs = {name: texts[number] for name, texts in translated.items()} or read_outputs(files.items(), test_set)
        loaded = [load_metric(spec, test_set.tgt_lang) for spec in config.metrics]
        yield evaluate_outputs(test_set, outputs, loaded, config)


def _translations(
    config: Any, models: dict[str, str], test_sets: Sequence[TestSet], dtype: Any, prompt: str | None
) -> dict[str, list[list[str]]]:
    """Translate every test set with every model: system -> texts of each test set."""
    _quiet()
    from mtcpo.translation import translate_texts
    from mtcpo.translation.generate import open_engine

    total, found = sum(len(test_set.segments) for test_set in test_sets), {}
    for name, path in models.items():
        with open_engine(path, name, dtype, prompt, total) as engine:
            found[name] = [translate_texts(engine, test_set.segments, config.decoding) for test_set in test_sets]
    return found


@mtcpo.command()
@click.argument("recipe")
@settings
@click.option("--output-dir", type=click.Path(path_type=Path), help="Run directory; default: runs/NAME.")
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing.")
@overwrite
def run(recipe: str, overrides: tuple[str, ...], output_dir: Path | None, dry_run: bool, overwrite: bool) -> None:
    """Run all stages of RECIPE (a file, or the name of a shipped one); stages that are done are skipped."""
    from mtcpo.pipeline import run_recipe, stages_of
    from mtcpo.recipe import find_recipe, load_recipe
    from mtcpo.stages import plan

    path = find_recipe(recipe)
    loaded = load_recipe(path, overrides)
    folder = output_dir or Path("runs") / path.stem
    if dry_run:
        for line in plan(stages_of(loaded, folder), folder):
            click.echo(line)
        return
    _quiet()
    report = run_recipe(loaded, folder, overwrite, click.echo)
    click.echo(f"{report}")


@mtcpo.command()
@click.argument("prefs")
@click.option("--to", "target", type=click.Choice(["trl"]), required=True)
@click.option("--output", required=True, type=click.Path(path_type=Path))
@overwrite
def export(prefs: str, target: str, output: Path, src_lang: str | None, tgt_lang: str | None, overwrite: bool) -> None:
    """Write triplets in the layout of another trainer."""
    from mtcpo.corpora import Drops, read_triplets, triplets_to_trl
    from mtcpo.files import refuse_existing, write_json_lines

    refuse_existing(output, overwrite)
    drops = Drops()
    count = write_json_lines(output, triplets_to_trl(read_triplets(prefs, drops)))
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
