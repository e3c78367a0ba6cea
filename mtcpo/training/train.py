"""`mtcpo train`: from texts to a trained model directory; resumable and atomic."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback

from mtcpo.core.errors import UserError, one_line, standing
from mtcpo.core.files import complete_folder, partial_path, refuse_existing, write_json, write_text
from mtcpo.data.corpora import Drops
from mtcpo.models.adapters import save_adapters
from mtcpo.models.canary import CANARY_FILE
from mtcpo.models.config import DEFAULT_OPTIONS, ModelOptions
from mtcpo.models.loading import LoadedModel, load_model, save_adapted, save_model
from mtcpo.models.prompts import TextExample
from mtcpo.training.arguments import dtype_of, training_setup
from mtcpo.training.callbacks import (
    SPEED_FIGURES,
    LogFile,
    TrainingProgress,
    early_stopping,
    stopping_at_a_step,
    without_nan,
)
from mtcpo.training.config import TrainConfig
from mtcpo.training.examples import CountedTexts, evaluation_texts, with_template
from mtcpo.training.losses import LossSpec, find_loss
from mtcpo.training.model_card import CARD_FILE, model_card
from mtcpo.training.prepare import (
    RunData,
    TrainingRun,
    prepare_model,
    prepare_training,
    prepare_work,
    run_fingerprint,
    saved_at,
    step_of,
    stopped_early_at,
)
from mtcpo.training.sharding import explain_lost_peer
from mtcpo.training.trainer import ExampleTrainer

REPORT_FILE = "training.json"
LOG_FILE = "metrics.jsonl"
ADAPTER_FOLDER = "adapter"
"""Folder of the adapters in the directory of a model into which they were merged."""


@explain_lost_peer()
def train(
    model: str,
    texts: Iterable[TextExample],
    config: TrainConfig,
    output_dir: Path,
    *,
    options: ModelOptions = DEFAULT_OPTIONS,
    eval_texts: Iterable[TextExample] | None = None,
    origin: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train `model` on `texts` and write it to `output_dir`, which appears only when it is complete.

    After an interrupt, the same call resumes from the last checkpoint. `output_dir` contains the model or its adapters,
    with canary and card (README.md), metrics.jsonl (training logs and sample translations) and training.json (settings
    and figures), whose content is returned. Meanwhile, metrics.jsonl grows in the unfinished directory beside it,
    `.NAME.partial`.

    Args:
        model: name or directory, as in `load_model`.
        texts: with targets (chosen, rejected), or (target,) for `loss = "sft"`.
        config: the settings of the stage.
        output_dir: a new folder, or an old one with `overwrite`.
        options: prompt and family that replace the declared ones, and whether the model's code may run.
        eval_texts: pairs for the metrics logged as eval_*, instead of those of `config.eval`.
        origin: where the texts come from, for the model card.
        overwrite: replace `output_dir`, and discard an unfinished run with different settings.

    Raises:
        UserError: the folder exists, unknown training arguments, no example left, an unfinished run with different
            settings, a dev set that cannot be scored, training diverges, and as `load_model`.
    """
    refuse_existing(output_dir, overwrite)
    work = partial_path(output_dir)
    setup = training_setup(config, work.resolve() / "checkpoints", evaluates=eval_texts is not None)
    if setup.args.push_to_hub and setup.args.hub_model_id is None:
        setup.args.hub_model_id = output_dir.name
    # First: custom code that cannot be imported shows before the model is loaded.
    loss = find_loss(config.loss)
    load = partial(load_model, model, dtype_of(config), options)
    evaluation = evaluation_texts(config, eval_texts, options.prompt)
    training = CountedTexts(with_template(texts, options.prompt), Drops())
    with setup.applied():
        load_to_train = partial(load, quantization=config.quantization)
        run = prepare_training(load_to_train, config, setup.args, training, evaluation, origin)
        trainer = _train(model, run, loss, work, overwrite)
        report = training_report(model, config, run.data, trainer)
        # Quantized weights are never sharded, so the reload needs no quantization.
        trained = trainer.gather_model(lambda: prepare_model(load("cpu"), config, setup.args.seed))
        if trained is not None:
            _finish(trained, trainer, output_dir, report, config)
        trainer.accelerator.wait_for_everyone()
    return report


def _train(model: str, run: TrainingRun, loss: LossSpec, work: Path, overwrite: bool) -> ExampleTrainer:
    """Train to the end, from the last checkpoint in `work` if any, and return the trainer."""
    with run.args.main_process_first(local=False):
        checkpoint = prepare_work(work, run_fingerprint(model, run), overwrite)
    patience = run.config.early_stopping_patience
    if checkpoint is not None and patience is not None:
        run.args.max_steps = stopped_early_at(checkpoint, patience) or run.args.max_steps
    trainer = _make_trainer(run, loss)
    trainer.add_callback(LogFile(work / LOG_FILE))
    with standing(lambda: saved_at(work, trainer.state.max_steps)), stopping_at_a_step(trainer):
        trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def _make_trainer(run: TrainingRun, loss: LossSpec) -> ExampleTrainer:
    """Create the trainer; missing packages and hardware become UserErrors."""
    data = run.data
    evaluation = None if data.evaluation is None else data.evaluation.examples
    callbacks = [TrainingProgress(f"training ({run.config.loss})"), *early_stopping(run.config)]
    with _explained():
        ExampleTrainer.get_optimizer_cls_and_kwargs(run.args, run.loaded.model)
        trainer = ExampleTrainer(
            run.loaded, run.args, run.config, data.training.examples, evaluation, data.dev, loss, callbacks
        )
    # TrainingProgress replaces these.
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors about missing requirements (wandb, bitsandbytes, a GPU for FSDP, the hub, ...) into one line."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except (LocalTokenNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise UserError(
            f"train.args.push_to_hub: {one_line(error)}; log in with `hf auth login` on a machine with network, or "
            "leave it out and run `hf upload NAME DIR` afterwards"
        ) from error
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"train.args: {one_line(error)}") from error


# --- training.json ----------------------------------------------------------------------------------------------------

ARGUMENTS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "optim", "weight_decay",
    "max_grad_norm", "seed",
)  # fmt: skip
"""Training arguments that are always reported, whether the user set them or not."""


def training_report(model: str, config: TrainConfig, data: RunData, trainer: ExampleTrainer) -> dict[str, Any]:
    """Return the content of training.json for a training so far. model: the base model's name."""
    state = trainer.state
    last = state.log_history[-1] if state.log_history else {}
    report = {
        "model": model,
        "settings": config.model_dump(mode="json"),
        "arguments": _arguments_of(trainer),
        "data": {
            "origin": data.origin,
            "sha256": data.training.sha256,
            "languages": list(data.training.languages),
        },
        "examples": len(data.training.examples),
        "dropped": dict(sorted(data.training.dropped.items())),
        "dropped_ids": dict(sorted(data.training.dropped_ids.items())),
        "steps": state.global_step,
        "tokens": int(sum(row.get("tokens", 0) for row in state.log_history)),  # of sources and targets
        "seconds": round(float(last.get("train_runtime", 0.0)), 1),
    }
    report |= _evaluation_report(data)
    kept_step = state.global_step
    if trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None:
        kept_step = step_of(Path(state.best_model_checkpoint))
        report["best"] = {"step": kept_step, "metric": trainer.args.metric_for_best_model, "score": state.best_metric}
    return report | {"scores": _scores_at(state.log_history, kept_step)}


def _arguments_of(trainer: ExampleTrainer) -> dict[str, Any]:
    values = {name: getattr(trainer.args, name) for name in ARGUMENTS}
    # Some are Enum members, which JSON cannot represent.
    return {name: getattr(value, "value", value) for name, value in values.items()}


def _evaluation_report(data: RunData) -> dict[str, Any]:
    """Return the report's fields on the data used for evaluation during training."""
    evaluation, dev = data.evaluation, data.dev
    report: dict[str, Any] = {}
    if evaluation is not None:
        report["eval_examples"] = len(evaluation.examples)
        report["eval_dropped"] = dict(sorted(evaluation.dropped.items()))
        report["eval_dropped_ids"] = dict(sorted(evaluation.dropped_ids.items()))
    if dev is not None:
        dropped = dict(data.dev_dropped)
        report["dev"] = {"segments": len(dev.segments), "dropped": dropped, "signatures": dev.signatures()}
    return report


def _scores_at(logs: Iterable[Mapping[str, Any]], step: int) -> dict[str, Any]:
    """Return the figures of the evaluation at a step; {} if there was none."""
    scores: dict[str, Any] = {}
    for row in logs:
        if row["step"] == step:
            scores |= {name: value for name, value in row.items() if name.startswith("eval_")}
    return without_nan({name: value for name, value in scores.items() if not name.endswith(SPEED_FIGURES)})


# --- the model directory ----------------------------------------------------------------------------------------------


def _finish(
    loaded: LoadedModel, trainer: ExampleTrainer, folder: Path, report: dict[str, Any], config: TrainConfig
) -> None:
    """Write the model, rename its folder, and remove the checkpoints unless the user wants them.

    Checkpoints stay until the folder is renamed: a run killed meanwhile resumes after its last step.
    """
    work = partial_path(folder)
    with complete_folder(work / "model") as result:
        save_trained(loaded, config, result, tuple(report["data"]["languages"]))
        shutil.copyfile(work / LOG_FILE, result / LOG_FILE)
        write_json(result / REPORT_FILE, report)
        write_text(result / CARD_FILE, model_card(report, folder.name))
    if trainer.args.push_to_hub:
        _push(trainer, work / "model")
    if folder.exists():
        shutil.rmtree(folder)
    (work / "model").replace(folder)
    wants_checkpoints = any(name.startswith("save") for name in config.args)
    if wants_checkpoints and (work / "checkpoints").exists():
        (work / "checkpoints").replace(folder / "checkpoints")
    shutil.rmtree(work)


def save_trained(loaded: LoadedModel, config: TrainConfig, folder: Path, languages: tuple[str, str]) -> None:
    """Write a model; with adapters, write only these, or the merged model with the adapters beside it."""
    if config.lora is None:
        save_model(loaded, folder, languages)
        return
    if not config.lora.merge:
        save_adapted(loaded, folder, languages)
        return
    beside = folder / ADAPTER_FOLDER
    beside.mkdir()
    save_adapters(loaded.model, beside)
    # Merging into 4- or 8-bit weights would round: merge into the base as it is on disk.
    whole = load_model(str(beside), config.dtype, loaded.options) if config.lora.quantization else None
    merged = loaded.model.merge_and_unload() if whole is None else whole.model
    save_model(loaded.with_model(merged), folder, languages)
    shutil.copyfile(folder / CANARY_FILE, beside / CANARY_FILE)


def _push(trainer: ExampleTrainer, folder: Path) -> None:
    """Upload the finished directory to the hub, as the training arguments say."""
    from huggingface_hub import HfApi

    args = trainer.args
    with _explained():
        HfApi(token=args.hub_token).upload_folder(
            repo_id=trainer.hub_model_id, folder_path=folder, commit_message="End of training",
            revision=args.hub_revision,
        )  # fmt: skip
