"""`mtcpo train`: from texts to a trained model directory, resumable, complete or not there at all."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, Seq2SeqTrainingArguments, TrainerCallback

from mtcpo.errors import UserError, nearest
from mtcpo.files import partial_path, refuse_existing, write_json, write_json_lines
from mtcpo.layouts import Example, Layout, Text
from mtcpo.models import LoadedModel, assemble, load_model, save_model, set_dropout
from mtcpo.progress import TrainingBar
from mtcpo.records import Segment, Triplet
from mtcpo.trainconfig import DType, LoraConfig, TrainConfig
from mtcpo.trainer import PreferenceTrainer

ENCODE_AT_ONCE = 1000
"""Texts tokenized in one call: enough to keep the tokenizer's threads busy, few enough to keep memory flat."""

DEFAULT_ARGS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "learning_rate": 1e-4,
    "num_train_epochs": 1,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.05,
    "logging_steps": 20,
    "save_total_limit": 1,
    "report_to": "none",
    "seed": 0,
}
"""What we set where the user does not; no service reports anywhere that nobody asked for."""

OWN_ARGS = ("output_dir", "remove_unused_columns", "predict_with_generate", "label_names", "deepspeed_plugin")
"""Fields that the trainer itself decides."""

REPORT_FILE = "training.json"
LOG_FILE = "metrics.jsonl"


@dataclasses.dataclass(slots=True)
class Encoded:
    """Tokenized examples, what was dropped on the way (reason -> number), and their languages."""

    examples: list[Example]
    dropped: Counter[str]
    languages: tuple[str, str]


def pair_texts(triplets: Iterable[Triplet]) -> Iterator[Text]:
    """Yield what training needs of triplets: the source, or the prompt, with (chosen, rejected)."""
    for t in triplets:
        yield Text(t.source, t.src_lang, t.tgt_lang, (t.chosen, t.rejected), t.prompt)


def reference_texts(segments: Iterable[Segment]) -> Iterator[Text]:
    """Yield what supervised training needs: each source with each of its references."""
    for segment in segments:
        if not segment.references:
            raise UserError(f"segment {segment.id}: no reference, and supervised training needs one")
        for reference in segment.references:
            yield Text(segment.source, segment.src_lang, segment.tgt_lang, (reference,))


def train(
    model: str,
    texts: Iterable[Text],
    config: TrainConfig,
    output_dir: Path,
    *,
    prompt: str | None = None,
    eval_texts: Iterable[Text] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train `model` on `texts` and write it to `output_dir`, which appears when it is complete.

    Interrupted, the same call goes on from the last checkpoint. In `output_dir`: the model with its canary,
    metrics.jsonl (the trainer's logs) and training.json (settings and figures), which is also returned.

    Args:
        model: as `load_model` takes it.
        texts: with targets (chosen, rejected), or (target,) for `loss = "sft"`.
        config: the stage's settings.
        output_dir: a new folder, or an old one with `overwrite`.
        prompt: a template in place of the family's own.
        eval_texts: pairs on which the same metrics are logged as eval_*.
        overwrite: replace `output_dir`, and discard an unfinished run with other settings.

    Raises:
        UserError: the folder exists, unknown training arguments, no example left, settings other than those of the
            unfinished run, and all that `load_model` finds.
    """
    refuse_existing(output_dir, overwrite)
    work = partial_path(output_dir)
    args = training_arguments(config, work / "checkpoints")
    loaded = load_model(model, _dtype(config), prompt)
    data = encode_within_limits(loaded.layout, texts, config)
    if not data.examples:
        raise UserError(f"no training example is left: {_counts(data.dropped) or 'there was none'}")
    evaluation = None if eval_texts is None else encode_within_limits(loaded.layout, eval_texts, config).examples
    resume = _prepare_work(work, _fingerprint(model, config, data.examples), overwrite)
    if config.lora:
        loaded = _with_lora(loaded, config.lora)
    if config.dropout != "model":
        set_dropout(loaded.model, config.dropout)
    trainer = PreferenceTrainer(loaded, args, config, data.examples, evaluation, config.batch_tokens)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(TrainingBar(f"training ({config.loss})"))
    with stopping_at_a_step(trainer):
        trainer.train(resume_from_checkpoint=resume)
    report = _report(model, config, trainer, data)
    if trainer.is_world_process_zero():
        _finish(loaded, trainer, output_dir, report, data.languages)
    trainer.accelerator.wait_for_everyone()
    return report


def encode_within_limits(layout: Layout, texts: Iterable[Text], config: TrainConfig) -> Encoded:
    """Tokenize texts; drop and count those that are empty, without a contrast, or too long for model or config.

    Nothing is ever cut: a cut target has no end token.
    """
    found = Encoded([], Counter(), ("und", "und"))
    iterator = iter(texts)
    while group := list(itertools.islice(iterator, ENCODE_AT_ONCE)):
        if config.loss == "sft":
            group = [dataclasses.replace(text, targets=text.targets[:1]) for text in group]
        found.languages = (group[-1].src_lang, group[-1].tgt_lang)
        for text, example in zip(group, layout.encode(group), strict=True):
            reason = _reason_to_drop(text, example, layout, config)
            if reason:
                found.dropped[reason] += 1
            else:
                found.examples.append(example)
    return found


def _reason_to_drop(text: Text, example: Example, layout: Layout, config: TrainConfig) -> str | None:
    if not text.source.strip() and text.prompt is None:
        return "empty_source"
    if not all(target.strip() for target in text.targets):
        return "empty_target"
    if len(set(example.targets)) < len(example.targets):
        return "chosen_equals_rejected"
    longest = max(len(target) for target in example.targets)
    if config.max_source_tokens is not None and len(example.source) > config.max_source_tokens:
        return "source_too_long"
    if config.max_target_tokens is not None and longest > config.max_target_tokens:
        return "target_too_long"
    limit = layout.max_positions
    return "too_long_for_model" if limit is not None and max(layout.lengths(example)) > limit else None


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in sorted(dropped.items()))


# --- settings -------------------------------------------------------------------------------------------------------


def training_arguments(config: TrainConfig, folder: Path) -> Seq2SeqTrainingArguments:
    """Return the library's arguments: our defaults, then the user's fields.

    Raises:
        UserError: a field that the library does not have, or a value that it refuses.
    """
    fields = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments) if field.init}
    args = DEFAULT_ARGS | config.args
    if "warmup_steps" in config.args:
        del args["warmup_ratio"]
    if "warmup_ratio" in args and "warmup_ratio" not in fields:
        # transformers 5: one field for both, a share where it is below 1.
        args["warmup_steps"] = args.pop("warmup_ratio")
    for name in args:
        if name not in fields or name in OWN_ARGS:
            raise UserError(f"train.args.{name}: no such training argument{nearest(name, fields)}")
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        args.setdefault("bf16", "fp16" not in args)
    try:
        return Seq2SeqTrainingArguments(output_dir=str(folder), remove_unused_columns=False, **args)
    except (ValueError, TypeError) as error:
        raise UserError(f"train.args: {str(error).splitlines()[0]}") from error


def _dtype(config: TrainConfig) -> DType:
    """Return the precision of the weights: full training in bf16 would round small updates away."""
    if config.args.get("fp16") and config.dtype == "auto":
        return "float32"
    return config.dtype if config.dtype != "auto" or config.lora else "float32"


def _with_lora(loaded: LoadedModel, lora: LoraConfig) -> LoadedModel:
    import peft

    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    settings = peft.LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=modules)
    model = peft.get_peft_model(loaded.model, settings)
    return assemble(loaded.name, model, loaded.tokenizer, loaded.family, getattr(loaded.layout, "prompt", None))


def _fingerprint(model: str, config: TrainConfig, examples: Sequence[Example]) -> str:
    """Return what must be equal for an unfinished run to go on: model, settings and data."""
    digest = hashlib.sha256(f"{model}\n{config.model_dump_json()}\n".encode())
    for example in examples:
        digest.update(repr((example.source, example.targets)).encode())
    return digest.hexdigest()


# --- work in progress -----------------------------------------------------------------------------------------------


def _prepare_work(work: Path, fingerprint: str, overwrite: bool) -> str | None:
    """Return the checkpoint to go on from, if `work` holds one of this same run."""
    record = work / "run.json"
    if record.exists():
        if json.loads(record.read_text(encoding="utf-8"))["fingerprint"] == fingerprint:
            return _last_checkpoint(work / "checkpoints")
        if not overwrite:
            raise UserError(
                f"{work}: an unfinished run with another model, data or settings; repeat those to finish it, "
                "or pass --overwrite to discard it"
            )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_json(record, {"fingerprint": fingerprint})
    return None


def _last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint; the library writes trainer_state.json last."""
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


class _StopAtStep(TrainerCallback):
    """At the next step's end, save a checkpoint and stop, once a signal has asked for it."""

    def __init__(self) -> None:
        self.asked = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.asked:
            control.should_save = control.should_training_stop = True


@contextmanager
def stopping_at_a_step(trainer: PreferenceTrainer) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a checkpoint and then KeyboardInterrupt; a second one is immediate."""
    callback = _StopAtStep()
    trainer.add_callback(callback)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if callback.asked:
            raise KeyboardInterrupt
        callback.asked = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if callback.asked and trainer.state.global_step < trainer.state.max_steps:
        raise KeyboardInterrupt


def _report(model: str, config: TrainConfig, trainer: PreferenceTrainer, data: Encoded) -> dict[str, Any]:
    last = trainer.state.log_history[-1] if trainer.state.log_history else {}
    return {
        "model": model,
        "settings": config.model_dump(mode="json"),
        "examples": len(data.examples),
        "dropped": dict(sorted(data.dropped.items())),
        "steps": trainer.state.global_step,
        "seconds": round(float(last.get("train_runtime", 0.0)), 1),
    }


def _finish(
    loaded: LoadedModel,
    trainer: PreferenceTrainer,
    folder: Path,
    report: dict[str, Any],
    languages: tuple[str, str],
) -> None:
    """Write the model beside the checkpoints, drop those unless the user asked for them, and name the folder."""
    work = partial_path(folder)
    model = trainer.accelerator.unwrap_model(trainer.model)
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    prompt = getattr(loaded.layout, "prompt", None)
    save_model(assemble(loaded.name, merged, loaded.tokenizer, loaded.family, prompt), work, languages)
    write_json_lines(work / LOG_FILE, trainer.state.log_history)
    write_json(work / REPORT_FILE, report)
    if not any(name.startswith("save") for name in report["settings"]["args"]):
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
    (work / "run.json").unlink()
    if folder.exists():
        shutil.rmtree(folder)
    work.replace(folder)
