"""The training arguments of transformers: mtcpo's defaults, the user's fields, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments

from mtcpo.core.errors import UserError, choose, nearest, one_line
from mtcpo.metrics.registry import is_higher_better, metric_name
from mtcpo.models.config import DType
from mtcpo.models.families import Family
from mtcpo.training.config import TrainConfig
from mtcpo.training.losses import LossConfig
from mtcpo.training.meters import PAIR_METRICS
from mtcpo.training.sharding import defer_sharding

DEFAULT_ARGS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "learning_rate": 1e-4,
    "num_train_epochs": 1,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.05,
    "logging_steps": 20,
    "logging_nan_inf_filter": False,
    "save_total_limit": 1,
    "hub_strategy": "end",
    "report_to": "none",
    "seed": 0,
}
"""Defaults that differ from those of transformers.

report_to: training is not reported to any service unless the user asks for it. logging_nan_inf_filter: it would read
the loss at every step, which waits for the GPU, and would hide a NaN loss, at which training must stop.
"""

RESERVED_ARGS = {
    "output_dir": "pass --output-dir",
    "resume_from_checkpoint": "the same command resumes automatically",
    "label_smoothing_factor": "set train.nll_smoothing",
    "remove_unused_columns": "batches hold what the model needs",
    "label_names": "batches hold what the model needs",
    "predict_with_generate": "translations are scored by `mtcpo evaluate`",
    "group_by_length": "batches already hold examples of similar length",
    "train_sampling_strategy": "batches already hold examples of similar length",
    "sortish_sampler": "batches already hold examples of similar length",
    "length_column_name": "batches already hold examples of similar length",
    "dataloader_drop_last": "no example is dropped",
}
"""Fields that would have no effect, or that mtcpo sets itself -> the reason, or the way out."""

VARIABLE_PREFIXES = ("ACCELERATE_", "FSDP_")
"""Prefixes of the environment variables that pass settings from transformers to accelerate."""


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingSetup:
    """The arguments of a training, and the environment variables that belong to them.

    transformers writes mixed precision, compilation and sharding to environment variables, which accelerate reads when
    a trainer is created. They are stored here instead, so that only the trainer created inside `applied` sees them.
    """

    args: Seq2SeqTrainingArguments
    environment: Mapping[str, str]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the variables inside the block, and restore the environment afterwards."""
        with _restored_environment():
            os.environ.update(self.environment)
            yield


def training_setup(config: TrainConfig, folder: Path, evaluates: bool = False) -> TrainingSetup:
    """Return the training arguments (mtcpo's defaults, overridden by the user's fields); the environment is restored.

    Args:
        config: the settings of the stage.
        folder: where checkpoints are written.
        evaluates: whether there is data to evaluate on besides what `config` names.

    Raises:
        UserError: an unknown field, or a value that transformers refuses.
    """
    with _restored_environment():
        args = _training_arguments(config, folder, evaluates)
        return TrainingSetup(args, _training_variables())


def _training_arguments(config: TrainConfig, folder: Path, evaluates: bool) -> Seq2SeqTrainingArguments:
    """Create the arguments; this writes to the environment."""
    fields = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments) if field.init}
    args = _with_defaults(config.args, fields)
    hints = typing.get_type_hints(Seq2SeqTrainingArguments)
    for name, value in args.items():
        if name in RESERVED_ARGS:
            raise UserError(f"train.args.{name} cannot be set: {RESERVED_ARGS[name]}")
        if name not in fields:
            raise UserError(f"train.args.{name}: no such training argument{nearest(name, fields)}")
        _check_type(name, value, hints[name])
    _adapt_to_machine_and_model(args)
    has_pairs = evaluates or config.eval is not None
    if has_pairs or config.dev is not None:
        args.setdefault("eval_strategy", "epoch")
        _choose_best(args, config)
    try:
        checked = Seq2SeqTrainingArguments(output_dir=str(folder), remove_unused_columns=False, **args)
    except (ValueError, TypeError, ImportError) as error:  # ImportError: deepspeed, apex and the like
        raise UserError(f"train.args: {one_line(error)}") from error
    defer_sharding(checked)
    if checked.eval_strategy != "no" and not has_pairs and config.dev is None:
        raise UserError(
            "train.args.eval_strategy: there is nothing to evaluate on; pass --eval-prefs FILE, or add [train.dev]"
        )
    _check_best(checked, config, has_pairs)
    return checked


def _with_defaults(given: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Return the user's fields, completed by mtcpo's defaults."""
    args = {**DEFAULT_ARGS, **given}
    if "warmup_steps" in given:
        del args["warmup_ratio"]
    if "warmup_ratio" in args and "warmup_ratio" not in fields:
        # transformers 5 has one field for both: values below 1 are ratios.
        args["warmup_steps"] = args.pop("warmup_ratio")
    return args


def _adapt_to_machine_and_model(args: dict[str, Any]) -> None:
    """Set defaults that depend on other fields or on the GPU."""
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        args.setdefault("bf16", not args.get("fp16"))
    # Two names for the same field: the second is used by later versions of transformers 5.
    for name in ("gradient_checkpointing", "activation_checkpointing"):
        if args.get(name):
            # torch's older, reentrant variant gets no gradient if the input is frozen, as with adapters.
            args.setdefault(f"{name}_kwargs", {"use_reentrant": False})
    if args.get("torch_compile") or args.get("torch_compile_backend"):
        # Compile layer by layer: the hooks on encoder and head would otherwise recompile the whole model at every step.
        os.environ.setdefault("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", "true")


def _training_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(VARIABLE_PREFIXES)}


@contextmanager
def _restored_environment() -> Iterator[None]:
    """Restore the variables of transformers and accelerate at the end of the block."""
    before = _training_variables()
    try:
        yield
    finally:
        for name in _training_variables():
            del os.environ[name]
        os.environ.update(before)


def _choose_best(args: dict[str, Any], config: TrainConfig) -> None:
    """Let the first metric of the dev set choose the best checkpoint, unless the user names another metric."""
    if args["eval_strategy"] == "no":
        return
    if config.dev is not None and args.get("load_best_model_at_end", True):
        args.setdefault("metric_for_best_model", metric_name(config.dev.metrics[0]))
    chosen = args.get("metric_for_best_model")
    if chosen is None and not args.get("load_best_model_at_end"):
        return
    args.setdefault("load_best_model_at_end", True)
    name = str(chosen).removeprefix("eval_")
    for spec in () if config.dev is None else config.dev.metrics:
        if metric_name(spec) == name:
            args.setdefault("greater_is_better", is_higher_better(spec))
    if args["load_best_model_at_end"]:
        # transformers needs a checkpoint at every evaluation.
        args.setdefault("save_strategy", args["eval_strategy"])
        if "save_total_limit" not in config.args:
            # The best and the last: with 1, transformers deletes the last one at an interrupt.
            args["save_total_limit"] = 2
        if "eval_steps" in args:
            args.setdefault("save_steps", args["eval_steps"])
    if config.early_stopping_patience is not None:
        # Without it, a resumed run would restart its patience at 0.
        args.setdefault("restore_callback_states_from_checkpoint", True)


def _check_best(args: Seq2SeqTrainingArguments, config: TrainConfig, has_pairs: bool) -> None:
    """Refuse a metric that evaluations do not compute: transformers would notice only after the first evaluation."""
    metric = args.metric_for_best_model
    if config.early_stopping_patience is not None and (metric is None or args.eval_strategy == "no"):
        raise UserError(
            "train.early_stopping_patience: no metric decides which checkpoint is better; set "
            "train.args.metric_for_best_model, or add [train.dev], whose first metric then decides"
        )
    if metric is None:
        return
    evaluated = [] if config.dev is None else [metric_name(spec) for spec in config.dev.metrics]
    if has_pairs:
        evaluated += ["loss", "nll_loss"]
        evaluated += [] if config.loss == "sft" else PAIR_METRICS
    if metric.removeprefix("eval_") not in evaluated:
        raise choose("train.args.metric_for_best_model", metric, evaluated)


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Refuse values of the wrong type, such as text for a number: transformers would notice late, or never."""
    if name == "fsdp":
        return  # text in transformers 4.57; also true in 5, whatever its hint says
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if not set(kinds) <= {bool, int, float, str, type(None)}:
        return  # one of several words, or a table: transformers checks those itself
    accepted = (*kinds, int) if float in kinds else kinds
    # In Python, True is a number.
    is_wrong_bool = isinstance(value, bool) and bool not in kinds
    if is_wrong_bool or not isinstance(value, accepted):
        needed = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise UserError(f"train.args.{name}: {needed} is needed (got {str(value)!r})")


def check_precision(args: Seq2SeqTrainingArguments, family: Family) -> None:
    """Refuse half-precision arithmetic that overflows or is not supported; `load_model` refuses such weights."""
    if not args.fp16:
        return
    if not family.float16:
        raise UserError(
            f"train.args.fp16: float16 overflows to NaN in the {family.name} family; use bf16 where the GPU "
            "has it, or float32"
        )
    if args.device.type == "cpu":
        raise UserError("train.args.fp16: float16 training needs a GPU; leave it out on a CPU")


def dtype_of(config: TrainConfig) -> DType:
    """Return the precision of the weights: float32 for full training, because bf16 would round small updates away."""
    if config.args.get("fp16") and config.dtype == "auto":
        return "float32"
    return config.dtype if config.dtype != "auto" or config.lora else "float32"


def router_weight(model_config: Any, config: LossConfig) -> float | None:
    """Return the weight of a mixture of experts' router loss, 0 if it is off; None for other models.

    Raises:
        UserError: the settings require a router loss, but the model has no experts, or no weight for it.
    """
    if not (hasattr(model_config, "output_router_logits") and hasattr(model_config, "router_aux_loss_coef")):
        if config.output_router_logits or config.router_aux_loss_coef:
            raise UserError(
                f"train: {model_config.model_type} has no experts whose load could be balanced; leave out "
                "output_router_logits and router_aux_loss_coef"
            )
        return None
    is_on, weight = config.output_router_logits, config.router_aux_loss_coef
    if is_on is None:
        is_on = weight is not None or model_config.output_router_logits
    if weight is None:
        weight = model_config.router_aux_loss_coef
    if is_on and weight is None:
        raise UserError(
            "train.output_router_logits: the model's config gives it no weight; set train.router_aux_loss_coef"
        )
    return float(weight) if is_on and weight else 0.0
