"""`mtcpo train`: from texts to a trained model directory, resumable, complete or not there at all."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    set_seed,
)

from mtcpo.core.errors import UserError, one_line
from mtcpo.core.files import complete_folder, partial_path, refuse_existing, write_json, write_json_lines, write_text
from mtcpo.data.corpora import Drops
from mtcpo.models.adapters import add_adapters, save_adapters
from mtcpo.models.canary import CANARY_FILE
from mtcpo.models.loading import (
    LoadedModel,
    load_model,
    model_fingerprint,
    resolve_model_name,
    save_adapted,
    save_model,
)
from mtcpo.models.prompts import TextExample
from mtcpo.training.arguments import check_precision, dtype_of, training_setup
from mtcpo.training.checkpoints import prepare_work, stopped_early_at, stopping_at_a_step
from mtcpo.training.config import TrainConfig
from mtcpo.training.dev_set import DevSet, dev_set_of
from mtcpo.training.examples import Encoded, encode_within_limits, evaluation_texts, not_empty, with_template
from mtcpo.training.model_card import CARD_FILE, model_card
from mtcpo.training.progress import TrainingBar
from mtcpo.training.sharding import explain_lost_peer
from mtcpo.training.trainer import ExampleTrainer

REPORT_FILE = "training.json"
LOG_FILE = "metrics.jsonl"
ADAPTER_FOLDER = "adapter"
"""Where the adapters are in the directory of a model that they were merged into."""

TIMES = ("_runtime", "_per_second", "_preparation_time")
"""Ends of the names of figures that differ from one run to the next."""


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run trains on and is judged by."""

    training: Encoded
    evaluation: Encoded | None
    dev: DevSet | None
    dev_dropped: Drops
    origin: str

    @property
    def sha256(self) -> str:
        """Return the hash of the token ids that are trained on."""
        return self.training.sha256


@explain_lost_peer()
def train(
    model: str,
    texts: Iterable[TextExample],
    config: TrainConfig,
    output_dir: Path,
    *,
    prompt: str | None = None,
    eval_texts: Iterable[TextExample] | None = None,
    origin: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train `model` on `texts` and write it to `output_dir`, which appears when it is complete.

    Interrupted, the same call goes on from the last checkpoint. In `output_dir`: the model, or its adapters, with its
    canary and its card (README.md), metrics.jsonl (the trainer's logs and sample translations) and training.json
    (settings and figures), which is also returned.

    Args:
        model: as `load_model` takes it.
        texts: with targets (chosen, rejected), or (target,) for `loss = "sft"`.
        config: the stage's settings.
        output_dir: a new folder, or an old one with `overwrite`.
        prompt: a template in place of the family's own.
        eval_texts: pairs for the metrics logged as eval_*, in place of those of `config.eval`.
        origin: where the texts come from, for the model's card.
        overwrite: replace `output_dir`, and discard an unfinished run with other settings.

    Raises:
        UserError: the folder exists, unknown training arguments, no example left, settings other than those of the
            unfinished run, a dev set that cannot be scored, and all that `load_model` finds.
    """
    refuse_existing(output_dir, overwrite)
    work = partial_path(output_dir)
    args = training_arguments(config, work.resolve() / "checkpoints", evaluates=eval_texts is not None)
    if args.push_to_hub and args.hub_model_id is None:
        args.hub_model_id = output_dir.name
    dev, dev_dropped = dev_set_of(config)
    held_out = evaluation_texts(config, eval_texts, prompt)
    loaded = load_model(model, dtype_of(config), prompt, quantization=config.quantization)
    check_precision(args, loaded.family)
    training = not_empty("training", encode_within_limits(loaded.layout, with_template(texts, prompt), config))
    evaluation = None if held_out is None else held_out.encode(loaded.layout, config)
    data = RunData(training, evaluation, dev, dev_dropped, origin)
    with args.main_process_first(local=False):
        resume = prepare_work(work, _fingerprint(model, config, data), overwrite)
    if resume is not None and config.early_stopping_patience is not None:
        args.max_steps = stopped_early_at(resume, config.early_stopping_patience) or args.max_steps
    loaded = prepare_model(loaded, config, args.seed)
    trainer = _trainer(loaded, args, config, data)
    with stopping_at_a_step(trainer):
        trainer.train(resume_from_checkpoint=resume)
    report = report_of(model, config, trainer, data)
    result = trainer.gather_model(
        lambda: prepare_model(load_model(model, dtype_of(config), prompt, "cpu"), config, args.seed)
    )
    if result is not None:
        _finish(result, trainer, output_dir, report, config)
    trainer.accelerator.wait_for_everyone()
    return report


def prepare_model(loaded: LoadedModel, config: TrainConfig, seed: int) -> LoadedModel:
    """Set the model's dropout, and put adapters on it, as the settings say."""
    if config.dropout != "model":
        set_dropout(loaded.model, config.dropout)
    if config.lora is None:
        return loaded
    # After the model's own dropout, so that the adapters keep theirs.
    set_seed(seed)  # the trainer does so too, but after the adapters have their first weights
    return loaded.with_model(add_adapters(loaded.model, loaded.family, config.lora, resolve_model_name(loaded.name)))


def _trainer(loaded: LoadedModel, args: Seq2SeqTrainingArguments, config: TrainConfig, data: RunData) -> ExampleTrainer:
    """Set up the trainer; what an argument asks for and the environment does not have is the user's to mend."""
    evaluation = None if data.evaluation is None else data.evaluation.examples
    with _explained():
        ExampleTrainer.get_optimizer_cls_and_kwargs(args, loaded.model)
        trainer = ExampleTrainer(
            loaded, args, config, data.training.examples, evaluation, config.batch_tokens, data.dev
        )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    for added in (TrainingBar(f"training ({config.loss})"), *early_stopping(config)):
        trainer.add_callback(added)
    return trainer


def early_stopping(config: TrainConfig) -> list[TrainerCallback]:
    """Return what stops a training early, if the settings say so."""
    patience = config.early_stopping_patience
    return [] if patience is None else [EarlyStoppingCallback(patience)]


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what the library lacks into one line: wandb and its like, bitsandbytes, a GPU for FSDP, the hub, ..."""
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


# --- what a run is --------------------------------------------------------------------------------------------------


def _fingerprint(model: str, config: TrainConfig, data: RunData) -> str:
    """Return what must be equal for an unfinished run to go on: model, settings and data."""
    digest = hashlib.sha256(
        f"{model}\n{model_fingerprint(model)}\n{config.model_dump_json()}\n{data.sha256}\n".encode()
    )
    if data.evaluation is not None:
        digest.update(data.evaluation.sha256.encode())
    for segment in () if data.dev is None else data.dev.segments:
        digest.update(repr((segment.source, segment.references)).encode())
    return digest.hexdigest()


ARGUMENTS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "optim", "weight_decay",
    "max_grad_norm", "seed",
)  # fmt: skip
"""Arguments of the library that say how a model was trained, given or not."""


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def report_of(model: str, config: TrainConfig, trainer: ExampleTrainer, data: RunData) -> dict[str, Any]:
    """Return what training.json and the card say of a training, as far as it has come."""
    state = trainer.state
    last = state.log_history[-1] if state.log_history else {}
    report = {
        "model": model,
        "settings": config.model_dump(mode="json"),
        "arguments": {name: _plain(getattr(trainer.args, name)) for name in ARGUMENTS},
        "data": {"origin": data.origin, "sha256": data.sha256, "languages": list(data.training.languages)},
        "examples": len(data.training.examples),
        "dropped": dict(sorted(data.training.dropped.items())),
        "dropped_ids": dict(sorted(data.training.dropped_ids.items())),
        "steps": state.global_step,
        "tokens": int(sum(row.get("tokens", 0) for row in state.log_history)),  # of sources and targets
        "seconds": round(float(last.get("train_runtime", 0.0)), 1),
    }
    if data.evaluation is not None:
        report["eval_examples"] = len(data.evaluation.examples)
        report["eval_dropped"] = dict(sorted(data.evaluation.dropped.items()))
        report["eval_dropped_ids"] = dict(sorted(data.evaluation.dropped_ids.items()))
    if data.dev is not None:
        report["dev"] = {"segments": len(data.dev.segments), "dropped": dict(data.dev_dropped)}
        report["dev"]["signatures"] = data.dev.signatures()
    if trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None:
        step = int(Path(state.best_model_checkpoint).name.rpartition("-")[2])
        report["best"] = {"step": step, "metric": trainer.args.metric_for_best_model, "score": state.best_metric}
    return report | {"scores": _scores(state.log_history, report.get("best", {}).get("step", state.global_step))}


def _scores(logs: Sequence[dict[str, Any]], step: int) -> dict[str, float]:
    """Return what the evaluation at `step` found, of the model that is kept; {} where there was none."""
    found = {key: value for row in logs if row["step"] == step for key, value in row.items() if key.startswith("eval_")}
    return _finite({key: value for key, value in found.items() if not key.endswith(TIMES)})


# --- the model that comes out ---------------------------------------------------------------------------------------


def _finish(
    loaded: LoadedModel, trainer: ExampleTrainer, folder: Path, report: dict[str, Any], config: TrainConfig
) -> None:
    """Write the model, name its folder, and drop the checkpoints unless the user asked for them.

    Until the folder has its name the checkpoints are there: a run killed meanwhile goes on from its last step.
    """
    work = partial_path(folder)
    with complete_folder(work / "model") as result:
        save_trained(loaded, config, result, tuple(report["data"]["languages"]))
        write_json_lines(result / LOG_FILE, (_finite(row) for row in trainer.state.log_history))
        write_json(result / REPORT_FILE, report)
        write_text(result / CARD_FILE, model_card(report, folder.name))
    if trainer.args.push_to_hub:
        _push(trainer, work / "model")
    if folder.exists():
        shutil.rmtree(folder)
    (work / "model").replace(folder)
    if any(name.startswith("save") for name in report["settings"]["args"]) and (work / "checkpoints").exists():
        (work / "checkpoints").replace(folder / "checkpoints")
    shutil.rmtree(work)


def save_trained(loaded: LoadedModel, config: TrainConfig, folder: Path, languages: tuple[str, str]) -> None:
    """Write a model; of adapters themselves, or the whole with the adapters beside it."""
    if config.lora is None:
        save_model(loaded, folder, languages)
        return
    if not config.lora.merge:
        save_adapted(loaded, folder, languages)
        return
    beside = folder / ADAPTER_FOLDER
    beside.mkdir()
    save_adapters(loaded.model, beside)
    # Weights in 4 or 8 bits cannot take adapters in without loss: those of the base do.
    whole = load_model(str(beside), config.dtype) if config.lora.quantization else None
    merged = loaded.model.merge_and_unload() if whole is None else whole.model
    save_model(loaded.with_model(merged), folder, languages)
    shutil.copyfile(folder / CANARY_FILE, beside / CANARY_FILE)


def _push(trainer: ExampleTrainer, folder: Path) -> None:
    """Upload the finished directory to the hub, to where the library's arguments say."""
    from huggingface_hub import HfApi

    args = trainer.args
    with _explained():
        HfApi(token=args.hub_token).upload_folder(
            repo_id=trainer.hub_model_id, folder_path=folder, commit_message="End of training",
            revision=args.hub_revision,
        )  # fmt: skip


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Put null for what JSON cannot hold: a gradient norm may overflow once and the run go on."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout of a model to `rate`, and drop no whole layers; its config keeps what it had."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, rate)
        if isinstance(getattr(module, "layerdrop", None), float):
            module.layerdrop = 0.0  # type: ignore[assignment]
