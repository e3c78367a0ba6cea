"""The commands that need a model alone: translate and train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtcpo.cli.options import (
    allow_code,
    corpus_of,
    format_drops,
    is_one_of_several,
    languages,
    model_options,
    options_of_model,
    overwrite,
    preference_set_of,
    quiet,
    section,
    settings,
    split_data_overrides,
)
from mtcpo.core.errors import UserError
from mtcpo.core.outputs import writing

if TYPE_CHECKING:
    from mtcpo.data.config import CorpusConfig
    from mtcpo.data.corpora import Drops
    from mtcpo.data.records import Segment


@click.command(short_help="Train on preferences, or on references.")
@click.option("--model", required=True, help="Alias (mt5, nllb, ...), hub name or directory.")
@click.option("--prefs", help="Triplets: ours, ALMA-R's or TRL's layout; a file or a data set.")
@click.option("--source", help="With --loss sft: source text (or a file with records).")
@click.option("--reference", "references", multiple=True, help="With --loss sft: its translation.")
@languages
@click.option(
    "--loss",
    metavar="[sft|sigmoid|hinge|ipo|simpo|alphapo|arpo]",
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
    dev_metrics: tuple[str, ...], output_dir: Path, dtype: Any, prompt: str | None, family: str | None,
    overrides: tuple[str, ...], allow_code: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Train on preferences, or on references with --loss sft; interrupted, the same command goes on.

    Every field of the library's training arguments is reachable: --set train.args.optim=adamw_torch_fused
    Several GPUs: accelerate launch -m mtcpo train ...
    """
    from mtcpo.data.corpora import Drops
    from mtcpo.data.triplets import open_triplets
    from mtcpo.training.config import TrainConfig

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
    own, of_data = split_data_overrides(overrides)
    config: TrainConfig = section(TrainConfig, "command line", values, own, "train", allow_code)
    sft = source is not None and config.loss == "sft"
    if sft == (prefs is not None) or (prefs is not None and references) or (source is not None and not sft):
        raise UserError("give --prefs FILE, or --loss sft with --source FILE --reference FILE")
    options = options_of_model(prompt, family, allow_code)
    drops = Drops()
    with writing(output_dir, overwrite, folder=True, inputs=[model]):
        # The first record is read now: a mistake in it should show before torch is loaded.
        if prefs is not None:
            triplets = open_triplets(preference_set_of(prefs, src_lang, tgt_lang, of_data, allow_code), drops)
        else:
            corpus = corpus_of(source or "", references, (), src_lang, tgt_lang, of_data, allow_code)
            segments = _references(corpus, drops)
        quiet()
        from mtcpo.training.examples import pair_texts, reference_texts
        from mtcpo.training.train import train

        texts = reference_texts(segments) if prefs is None else pair_texts(triplets)
        origin = prefs or source or ""
        report = train(model, texts, config, output_dir, options=options, origin=origin, overwrite=overwrite)
    if is_one_of_several():  # the first one tells
        return
    drops.update(report["dropped"])
    click.echo(f"{output_dir}: {report['examples']} examples, {report['steps']} steps{format_drops(drops)}")
    for what, dropped in (("eval", report.get("eval_dropped")), ("dev", report.get("dev", {}).get("dropped"))):
        if dropped:
            click.echo(f"  {what}{format_drops(Drops(dropped))}")
    if "best" in report:
        best = report["best"]
        click.echo(f"  kept step {best['step']}, the best by {best['metric']} ({best['score']:.4g})")


def _references(corpus: CorpusConfig, drops: Drops) -> Iterator[Segment]:
    from mtcpo.data.corpora import read_corpus
    from mtcpo.data.rows import require_first

    return require_first(read_corpus(corpus, drops), f"{corpus.source}: every source in it is empty")
