"""What a training needs before its first step: the model to be trained, tokenized data, the work folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import Seq2SeqTrainingArguments, set_seed

from mtcpo.core.errors import UserError
from mtcpo.core.files import sha256_of, write_json
from mtcpo.core.progress import Progress
from mtcpo.core.user_code import is_user_code, user_code_file
from mtcpo.data.corpora import Drops
from mtcpo.models.adapters import add_adapters
from mtcpo.models.loading import LoadedModel
from mtcpo.models.names import model_fingerprint, resolve_model_name
from mtcpo.training.arguments import check_precision
from mtcpo.training.config import TrainConfig
from mtcpo.training.dev_set import DevSet, dev_set_of
from mtcpo.training.examples import CountedTexts, Encoded


@dataclass(frozen=True, slots=True)
class RunData:
    """A run's data for training and evaluation. origin: where the training data come from, for the model card."""

    training: Encoded
    evaluation: Encoded | None
    dev: DevSet | None
    dev_dropped: Drops
    origin: str = ""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A training that is ready to start: settings, arguments, the model with its adapters, and the data."""

    config: TrainConfig
    args: Seq2SeqTrainingArguments
    loaded: LoadedModel
    data: RunData


def prepare_training(
    load: Callable[[], LoadedModel],
    config: TrainConfig,
    args: Seq2SeqTrainingArguments,
    training: CountedTexts,
    evaluation: CountedTexts | None,
    origin: str = "",
) -> TrainingRun:
    """Load the dev set and the model, tokenize the data, and prepare the model for training.

    Args:
        load: loads the model.
        config: the settings of the stage.
        args: the arguments from `training_setup`.
        training: the texts to train on.
        evaluation: pairs for the figures logged as eval_*, if any.
        origin: where the training data come from, for the model card.

    Raises:
        UserError: a dev set that cannot be scored, no example left, and as `load_model`.
    """
    # Quick checks first, before the model is loaded.
    dev, dev_dropped = dev_set_of(config)
    with Progress("loading the model", unit=""):
        loaded = load()
    check_precision(args, loaded.family)
    data = RunData(
        training.encode("training", loaded.layout, config),
        None if evaluation is None else evaluation.encode("evaluation", loaded.layout, config),
        dev,
        dev_dropped,
        origin,
    )
    return TrainingRun(config, args, prepare_model(loaded, config, args.seed), data)


# --- the model --------------------------------------------------------------------------------------------------------


def prepare_model(loaded: LoadedModel, config: TrainConfig, seed: int) -> LoadedModel:
    """Set the model's dropout and add adapters, as configured."""
    if config.dropout != "model":
        set_dropout(loaded.model, config.dropout)
    if config.lora is None:
        return loaded
    # The trainer sets the seed too, but only after the adapters are initialized.
    set_seed(seed)
    # After set_dropout, so that the adapters keep their own dropout.
    adapted = add_adapters(loaded.model, loaded.family, config.lora, resolve_model_name(loaded.name))
    return loaded.with_model(adapted)


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout of a model to `rate`, and layer dropout to 0; its config is unchanged."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        # Some models store the rate as a number and call the function.
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, rate)
        if isinstance(getattr(module, "layerdrop", None), float):
            module.layerdrop = 0.0  # type: ignore[assignment]


# --- the work folder --------------------------------------------------------------------------------------------------


def run_fingerprint(model: str, run: TrainingRun) -> str:
    """Return a hash of model, settings, code and data, which must be equal for an unfinished run to be resumed."""
    config, data = run.config, run.data
    parts = [model, model_fingerprint(model), config.model_dump_json(), data.training.sha256]
    digest = hashlib.sha256("".join(f"{part}\n" for part in parts).encode())
    if is_user_code(config.loss):
        digest.update(sha256_of(Path(user_code_file(config.loss))).encode())
    if data.evaluation is not None:
        digest.update(data.evaluation.sha256.encode())
    if data.dev is not None:
        for segment in data.dev.segments:
            digest.update(repr((segment.source, segment.references)).encode())
    return digest.hexdigest()


def prepare_work(work: Path, fingerprint: str, overwrite: bool) -> str | None:
    """Return the checkpoint to resume from, if `work` has one of the same run; else make `work` an empty folder.

    Raises:
        UserError: it has a checkpoint of another run, and `overwrite` is off.
    """
    record = work / "run.json"
    if record.exists():
        if json.loads(record.read_text(encoding="utf-8"))["fingerprint"] == fingerprint:
            return _last_checkpoint(work / "checkpoints")
        # A run without a checkpoint has nothing to lose.
        if not overwrite and _last_checkpoint(work / "checkpoints") is not None:
            raise UserError(
                f"{work}: an unfinished run with a different model, data or settings; repeat the command with "
                "those to finish it, or pass --overwrite to discard it"
            )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_json(record, {"fingerprint": fingerprint})
    return None


def saved_at(work: Path, max_steps: int) -> str:
    """Return where an interrupted training stands, for the last line: the step of its last checkpoint."""
    checkpoint = _last_checkpoint(work / "checkpoints")
    if checkpoint is None:
        return f"none of {max_steps:,} steps saved yet"
    return f"saved at step {step_of(Path(checkpoint)):,} of {max_steps:,}"


def _last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint, or None."""
    # transformers writes trainer_state.json last.
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=step_of)) if complete else None


def step_of(checkpoint: Path) -> int:
    """Return a checkpoint's step, from the name of its folder."""
    return int(checkpoint.name.rpartition("-")[2])


def stopped_early_at(checkpoint: str, patience: int) -> int | None:
    """Return the checkpoint's step if early stopping had ended the run there, else None."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    stopping = state["stateful_callbacks"]["EarlyStoppingCallback"]["attributes"]
    has_stopped = stopping["early_stopping_patience_counter"] >= patience
    return int(state["global_step"]) if has_stopped else None
