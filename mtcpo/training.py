"""`mtcpo train`: from texts to a trained model directory, resumable, complete or not there at all."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, Seq2SeqTrainingArguments, TrainerCallback, set_seed

from mtcpo.arguments import check_precision, dtype_of, training_arguments
from mtcpo.errors import UserError
from mtcpo.files import complete_folder, partial_path, refuse_existing, write_json, write_json_lines
from mtcpo.layouts import Example, Layout, Text
from mtcpo.models import LoadedModel, identity_of, load_model, save_model, set_dropout
from mtcpo.progress import TrainingBar
from mtcpo.records import Segment, Triplet
from mtcpo.trainconfig import LoraConfig, TrainConfig
from mtcpo.trainer import PreferenceTrainer

ENCODE_AT_ONCE = 1000
"""Texts tokenized in one call: enough to keep the tokenizer's threads busy, few enough to keep memory flat."""

NAMED_IDS = 5
"""How many ids of dropped examples a report names for each reason."""

REPORT_FILE = "training.json"
LOG_FILE = "metrics.jsonl"


@dataclasses.dataclass(slots=True)
class Encoded:
    """Tokenized examples, what was dropped on the way (reason -> number), and their languages.

    dropped_ids: reason -> the first ids, where they are known.
    """

    examples: list[Example]
    dropped: Counter[str]
    languages: tuple[str, str]
    dropped_ids: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def drop(self, reason: str, text: Text) -> None:
        """Count a text that is left out, and keep its id if it is among the first."""
        self.dropped[reason] += 1
        ids = self.dropped_ids.setdefault(reason, [])
        if text.id and len(ids) < NAMED_IDS:
            ids.append(text.id)


def pair_texts(triplets: Iterable[Triplet]) -> Iterator[Text]:
    """Yield what training needs of triplets: the source, or the prompt, with (chosen, rejected)."""
    for t in triplets:
        yield Text(t.source, t.src_lang, t.tgt_lang, (t.chosen, t.rejected), t.prompt, t.id)


def reference_texts(segments: Iterable[Segment]) -> Iterator[Text]:
    """Yield what supervised training needs: each source with each of its references."""
    for segment in segments:
        if not segment.references:
            raise UserError(f"segment {segment.id}: no reference, and supervised training needs one")
        for reference in segment.references:
            yield Text(segment.source, segment.src_lang, segment.tgt_lang, (reference,), id=segment.id)


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
    args = training_arguments(config, work / "checkpoints", evaluates=eval_texts is not None)
    loaded = load_model(model, dtype_of(config), prompt)
    check_precision(args, loaded.family)
    data = not_empty("training", encode_within_limits(loaded.layout, texts, config))
    evaluation = None
    if eval_texts is not None:
        evaluation = not_empty("evaluation", encode_within_limits(loaded.layout, eval_texts, config))
    with args.main_process_first(local=False):
        resume = _prepare_work(work, _fingerprint(model, config, data.examples), overwrite)
    loaded = ready_to_train(loaded, config, args.seed)
    eval_examples = None if evaluation is None else evaluation.examples
    trainer = _trainer(loaded, args, config, data.examples, eval_examples)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(TrainingBar(f"training ({config.loss})"))
    with stopping_at_a_step(trainer):
        trainer.train(resume_from_checkpoint=resume)
    report = _report(model, config, trainer, data, evaluation)
    if trainer.is_world_process_zero():
        _finish(loaded, trainer, output_dir, report, data.languages)
    trainer.accelerator.wait_for_everyone()
    return report


def ready_to_train(loaded: LoadedModel, config: TrainConfig, seed: int) -> LoadedModel:
    """Set the model's dropout, and put adapters on it, as the settings say."""
    if config.dropout != "model":
        set_dropout(loaded.model, config.dropout)
    if config.lora:  # after the model's own dropout, so that the adapters keep theirs
        set_seed(seed)  # the trainer does so too, but after the adapters have their first weights
        loaded = _with_lora(loaded, config.lora)
    return loaded


def _trainer(
    loaded: LoadedModel,
    args: Seq2SeqTrainingArguments,
    config: TrainConfig,
    examples: Sequence[Example],
    eval_examples: Sequence[Example] | None,
) -> PreferenceTrainer:
    """Set up the trainer; what an argument asks for and the environment does not have is the user's to mend."""
    try:
        PreferenceTrainer.get_optimizer_cls_and_kwargs(args, loaded.model)
        return PreferenceTrainer(loaded, args, config, examples, eval_examples, config.batch_tokens)
    except (ValueError, ImportError, RuntimeError) as error:
        # wandb and its like are missing, bitsandbytes, a GPU for FSDP, ...; the library has a kind for each.
        raise UserError(f"train.args: {' '.join(str(error).split())}") from error


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
                found.drop(reason, text)
            else:
                found.examples.append(example)
    return found


def not_empty(kind: str, data: Encoded) -> Encoded:
    """Return the examples if there is one.

    Raises:
        UserError: all were dropped; the message says why.
    """
    if not data.examples:
        named = {reason: f" ({', '.join(ids)})" if ids else "" for reason, ids in data.dropped_ids.items()}
        counts = ", ".join(f"{number} {reason}{named[reason]}" for reason, number in sorted(data.dropped.items()))
        raise UserError(f"no {kind} example is left: {counts or 'there was none'}")
    return data


def _reason_to_drop(text: Text, example: Example, layout: Layout, config: TrainConfig) -> str | None:
    given = text.source if text.prompt is None else text.prompt
    if not (given.strip() if isinstance(given, str) else given):
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


# --- settings -------------------------------------------------------------------------------------------------------


def _with_lora(loaded: LoadedModel, lora: LoraConfig) -> LoadedModel:
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    settings = peft.LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=modules)
    try:
        model = peft.get_peft_model(loaded.model, settings)
    except ValueError as error:
        raise UserError(f"train.lora: {str(error).splitlines()[0]}") from error
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise UserError("train.lora.target_modules: the output head can take no adapter; name the other layers")
    return loaded.with_model(model)


def _fingerprint(model: str, config: TrainConfig, examples: Sequence[Example]) -> str:
    """Return what must be equal for an unfinished run to go on: model, settings and data."""
    digest = hashlib.sha256(f"{model}\n{identity_of(model)}\n{config.model_dump_json()}\n".encode())
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
        if not overwrite and _last_checkpoint(work / "checkpoints") is not None:  # without one, nothing is lost
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

    def __init__(self, accelerator: Any) -> None:
        self.asked = False
        self.accelerator = accelerator

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # All processes stop at one step, whichever was asked first: one that went on alone would wait for ever.
        if self.accelerator.num_processes > 1:
            asked = torch.tensor(int(self.asked), device=self.accelerator.device)
            self.asked = bool(self.accelerator.reduce(asked, "sum"))
        if self.asked:
            control.should_save = control.should_training_stop = True


@contextmanager
def stopping_at_a_step(trainer: PreferenceTrainer) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a checkpoint and then KeyboardInterrupt; a second one is immediate."""
    callback = _StopAtStep(trainer.accelerator)
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


def _report(
    model: str, config: TrainConfig, trainer: PreferenceTrainer, data: Encoded, evaluation: Encoded | None
) -> dict[str, Any]:
    last = trainer.state.log_history[-1] if trainer.state.log_history else {}
    report = {
        "model": model,
        "settings": config.model_dump(mode="json"),
        "examples": len(data.examples),
        "dropped": dict(sorted(data.dropped.items())),
        "dropped_ids": dict(sorted(data.dropped_ids.items())),
        "steps": trainer.state.global_step,
        "seconds": round(float(last.get("train_runtime", 0.0)), 1),
    }
    if evaluation is None:
        return report
    dropped = dict(sorted(evaluation.dropped.items()))
    ids = dict(sorted(evaluation.dropped_ids.items()))
    return report | {"eval_examples": len(evaluation.examples), "eval_dropped": dropped, "eval_dropped_ids": ids}


def _finish(
    loaded: LoadedModel,
    trainer: PreferenceTrainer,
    folder: Path,
    report: dict[str, Any],
    languages: tuple[str, str],
) -> None:
    """Write the model, name its folder, and drop the checkpoints unless the user asked for them.

    Until the folder has its name the checkpoints are there: a run killed meanwhile goes on from its last step.
    """
    work = partial_path(folder)
    model = trainer.accelerator.unwrap_model(trainer.model)
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    with complete_folder(work / "model") as result:
        save_model(loaded.with_model(merged), result, languages)
        write_json_lines(result / LOG_FILE, (_finite(row) for row in trainer.state.log_history))
        write_json(result / REPORT_FILE, report)
    if folder.exists():
        shutil.rmtree(folder)
    (work / "model").replace(folder)
    if any(name.startswith("save") for name in report["settings"]["args"]) and (work / "checkpoints").exists():
        (work / "checkpoints").replace(folder / "checkpoints")
    shutil.rmtree(work)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Put null for what JSON cannot hold: a gradient norm may overflow once and the run go on."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
