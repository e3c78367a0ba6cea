"""The work in progress of a training run: its folder, its last checkpoint, and how an interrupt becomes one."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from mtcpo.core.errors import UserError
from mtcpo.core.files import write_json
from mtcpo.training.trainer import ExampleTrainer


def prepare_work(work: Path, fingerprint: str, overwrite: bool) -> str | None:
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


def stopped_early_at(checkpoint: str, patience: int) -> int | None:
    """Return the step of a checkpoint after which early stopping had ended the run; None where it had not."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    counted = state["stateful_callbacks"]["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"]
    return int(state["global_step"]) if counted >= patience else None


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
def stopping_at_a_step(trainer: ExampleTrainer) -> Iterator[None]:
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
