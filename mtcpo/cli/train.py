"""The command `mtcpo train`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtcpo.cli import catalogues
from mtcpo.cli.configuration import format_drops, load_corpus, load_options, load_preference_set
from mtcpo.cli.options import (
    ENGINE_NAMES,
    CommonOptions,
    LanguageOptions,
    ModelLoadingOptions,
    option,
    output_option,
    setting,
    settings_of,
    with_options,
)
from mtcpo.core.errors import UserError, counted
from mtcpo.core.outputs import writing
from mtcpo.core.processes import is_first_process, require_torch_launcher

if TYPE_CHECKING:
    from mtcpo.data.corpora import Drops
    from mtcpo.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class DataOptions:
    """What to learn from."""

    prefs: str | None = option("--prefs", help="Triplets (mtcpo's records, ALMA-R's or TRL's): a file or a data set.")
    source: str | None = option("--source", help="With --loss sft: source text, or a file of records.")
    references: tuple[str, ...] = option(
        "--reference", multiple=True, help="With --loss sft: reference translation of the source text."
    )

    @property
    def origin(self) -> str:
        """The triplets or the source text, for the model card."""
        return self.prefs or self.source or ""


@dataclass(frozen=True, slots=True)
class LossOptions:
    """The loss, how fast to learn, and how precisely; every other setting is reached by --set."""

    loss: str | None = setting("--loss", metavar="NAME", help="One of the losses below; default: sigmoid (CPO).")
    beta: float | None = setting("--beta", type=float, help="Scale of the rewards; default: 0.1.")
    cpo_alpha: float | None = setting("--cpo-alpha", type=float, help="Weight of the NLL of the chosen; default: 1.")
    # These two are fields of Seq2SeqTrainingArguments; --set train.args.X=... sets the others.
    learning_rate: float | None = setting(
        "--learning-rate", key="args.learning_rate", type=float, help="Peak learning rate; default: 1e-4."
    )
    epochs: float | None = setting(
        "--epochs", key="args.num_train_epochs", type=float, help="Passes over the data; default: 1."
    )
    dtype: str | None = setting(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        help="Precision of the weights; default: float32 for full training, the GPU's best for LoRA.",
    )


@dataclass(frozen=True, slots=True)
class HeldOutOptions:
    """What training is evaluated on."""

    eval_prefs: str | None = setting(
        "--eval-prefs", key="eval.prefs", help="Held-out triplets; metrics on them are logged as eval_*."
    )
    dev_source: str | None = setting(
        "--dev-source", key="dev.source", help="Source text of the dev set, translated at every evaluation."
    )
    dev_references: tuple[str, ...] = setting(
        "--dev-reference", key="dev.references", multiple=True, help="Reference of the dev set; repeatable."
    )
    dev_metrics: tuple[str, ...] = setting(
        "--dev-metric",
        key="dev.metrics",
        multiple=True,
        help="Metric on the dev set; repeatable, the first chooses the checkpoint; default: chrf, bleu.",
    )
    dev_engine: str | None = setting(
        "--dev-engine",
        key="dev.engine",
        type=click.Choice(ENGINE_NAMES),
        help="What translates the dev set; default: transformers, which need not convert the model each time.",
    )

    def language_settings(self, languages: LanguageOptions) -> dict[str, str | None]:
        """Return the languages as settings of the held-out data that is given.

        Raises:
            UserError: options of a dev set without its source.
        """
        if self.dev_source is None and (self.dev_references or self.dev_metrics or self.dev_engine):
            raise UserError("--dev-reference, --dev-metric and --dev-engine need --dev-source")
        # Only for what was given: a language alone would make a section without data.
        settings: dict[str, str | None] = {}
        for section, source in (("eval", self.eval_prefs), ("dev", self.dev_source)):
            if source is not None:
                settings[f"{section}.src_lang"] = languages.src_lang
                settings[f"{section}.tgt_lang"] = languages.tgt_lang
        return settings


@click.command(
    cls=catalogues.Command,
    catalogues={"Losses": catalogues.losses, "Short names for --model": catalogues.models},
    short_help="Train on preferences, or on references.",
)
@click.option("--model", required=True, help="A short name listed below, a hub name or a directory.")
@with_options(data=DataOptions, languages=LanguageOptions, loss=LossOptions, held_out=HeldOutOptions)
@output_option("--output-dir", "Directory to write the trained model to.")
@with_options(loading=ModelLoadingOptions, common=CommonOptions)
def train(
    model: str,
    data: DataOptions,
    languages: LanguageOptions,
    loss: LossOptions,
    held_out: HeldOutOptions,
    output_dir: Path,
    loading: ModelLoadingOptions,
    common: CommonOptions,
) -> None:
    """Train on preferences, or with --loss sft on references. To resume after an interruption, repeat the command.

    Every field of Seq2SeqTrainingArguments can be given with --set: --set train.args.optim=adamw_torch_fused

    For several GPUs: accelerate launch -m mtcpo train ...
    """
    from mtcpo.core.progress import quiet_libraries
    from mtcpo.data.corpora import Drops

    require_torch_launcher()
    # Mistakes in the command line show before files are read, and mistakes in files before torch is imported.
    overrides, data_overrides = common.split()
    config = _config(loss, held_out, languages, overrides, common.allow_code)
    _check_data(data, config.loss)
    options = loading.checked(common.allow_code)
    drops = Drops()
    with writing(output_dir, common.overwrite, folder=True, inputs=[model]):
        records = _read(data, languages, data_overrides, common.allow_code, drops)
        # Before torch and transformers are imported, which already writes to the terminal.
        quiet_libraries()
        from mtcpo.training.examples import pair_texts, reference_texts
        from mtcpo.training.train import train

        texts = reference_texts(records) if data.prefs is None else pair_texts(records)
        overwrite = common.overwrite
        report = train(model, texts, config, output_dir, options=options, origin=data.origin, overwrite=overwrite)
    # Under a launcher, all processes get here, with the same report.
    if is_first_process():
        drops.update(report["dropped"])
        _print_report(output_dir, report, drops)


def _config(
    loss: LossOptions,
    held_out: HeldOutOptions,
    languages: LanguageOptions,
    overrides: list[str],
    allow_code: bool,
) -> TrainConfig:
    from mtcpo.training.config import TrainConfig

    values = settings_of(loss, held_out) | held_out.language_settings(languages)
    return load_options(TrainConfig, "train", values, overrides, allow_code)


def _check_data(data: DataOptions, loss: str) -> None:
    """Refuse anything but triplets or, for `sft` only, a source text with references."""
    is_preferences = data.prefs is not None and data.source is None and not data.references
    is_supervised = data.prefs is None and data.source is not None and loss == "sft"
    if not (is_preferences or is_supervised):
        raise UserError("give --prefs FILE, or --loss sft with --source FILE --reference FILE")


def _read(
    data: DataOptions, languages: LanguageOptions, overrides: Sequence[str], allow_code: bool, drops: Drops
) -> Iterator[Any]:
    """Return triplets or segments; missing or empty files show here, before torch is imported."""
    from mtcpo.data.corpora import read_corpus
    from mtcpo.data.rows import require_first
    from mtcpo.data.triplets import open_triplets

    if data.prefs is not None:
        return open_triplets(load_preference_set(data.prefs, languages, overrides, allow_code), drops)
    corpus = load_corpus(data.origin, data.references, (), languages, overrides, allow_code)
    return require_first(read_corpus(corpus, drops), f"{corpus.source}: every source in it is empty")


def _print_report(output_dir: Path, report: dict[str, Any], drops: Drops) -> None:
    from mtcpo.data.corpora import Drops

    counts = f"{counted(report['examples'], 'example')}, {counted(report['steps'], 'step')}"
    click.echo(f"{output_dir}: {counts}{format_drops(drops)}")
    held_out = {"eval": report.get("eval_dropped"), "dev": report.get("dev", {}).get("dropped")}
    for name, dropped in held_out.items():
        if dropped:
            click.echo(f"  {name}{format_drops(Drops(dropped))}")
    if "best" in report:
        best = report["best"]
        click.echo(f"  kept step {best['step']}, the best by {best['metric']} ({best['score']:.4g})")
