"""Trainer callbacks: progress, the growing log file, interrupts, and resuming a finished run."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from mtcpo.core.progress import Progress, note
from mtcpo.data.file_formats.json_lines import json_line
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.training.config import TrainConfig

SPEED_FIGURES = ("_runtime", "_per_second", "_preparation_time")
"""Suffixes of the names of figures that differ from run to run."""


def early_stopping(config: TrainConfig) -> list[TrainerCallback]:
    """Return the callback for early stopping, if it is configured."""
    patience = config.early_stopping_patience
    return [] if patience is None else [EarlyStoppingCallback(patience)]


# --- progress ---------------------------------------------------------------------------------------------------------


def evaluation_lines(step: int, metrics: Mapping[str, float], samples: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield the lines that show an evaluation: its figures, then sample translations below their sources."""
    figures = []
    for name, value in metrics.items():
        if name != "epoch" and not name.endswith(SPEED_FIGURES):
            figures.append(f"{name.removeprefix('eval_')} {value:.4g}")
    yield f"step {step}: " + ", ".join(figures)
    for sample in samples:
        for name in ("source", "reference", "translation"):
            yield f"  {name:<12}" + _printable(sample[name])
        yield ""


def _printable(text: str) -> str:
    """Return text on one line, without control characters: a model may generate them, and a terminal would obey."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


class TrainingProgress(TrainerCallback):
    """Progress over optimizer steps, with loss and reward accuracy, instead of log lines; and over evaluations."""

    SHOWN = (("loss", "loss"), ("accuracy", "rewards/accuracies"), ("margin", "rewards/margins"))

    def __init__(self, description: str) -> None:
        self.description = description
        self.training: Progress | None = None
        self.evaluation: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start at the step that a resumed run has reached."""
        if state.is_world_process_zero:
            self.training = Progress(self.description, state.max_steps, "steps", state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance by one optimizer step."""
        if self.training is not None:
            self.training.update()

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any, **kwargs: Any) -> None:
        """Advance by one batch of an evaluation."""
        if not state.is_world_process_zero:
            return
        if self.evaluation is None:
            self.evaluation = Progress("evaluating on pairs", len(eval_dataloader), "batches")
        self.evaluation.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the newest figures."""
        if self.training is not None and logs is not None and "loss" in logs:
            self.training.show_figures({short: logs[name] for short, name in self.SHOWN if name in logs})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Print the figures of an evaluation and the sample translations, if a dev set was translated."""
        if self.evaluation is not None:
            self.evaluation.close()
            self.evaluation = None
        samples = state.log_history[-1].get("samples") if state.log_history else None
        if samples and metrics and state.is_world_process_zero:
            for line in evaluation_lines(state.global_step, metrics, samples):
                note(line)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the bar."""
        if self.training is not None:
            self.training.close()


# --- the log file -----------------------------------------------------------------------------------------------------


class LogFile(TrainerCallback):
    """Writes the log to a file while training runs; a line is written whole, so a reader never sees half of one.

    A run that resumes first replaces the file by the log of its checkpoint: later rows belong to steps that are done
    again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the rows that a resumed run has logged before."""
        if state.is_world_process_zero:
            write_row_file(self.path, map(without_nan, state.log_history))
            self._written = len(state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Append new rows."""
        self._append(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Append sample translations, which are logged after the figures of an evaluation."""
        self._append(state)

    def _append(self, state: Any) -> None:
        # An evaluation without training has no file, nor have other processes.
        if self._written is None:
            return
        rows = state.log_history[self._written :]
        # Unbuffered: all rows in one write, at once.
        with self.path.open("ab", buffering=0) as file:
            file.write(b"".join(json_line(without_nan(row)) for row in rows))
        self._written += len(rows)


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinity by None, for JSON: a gradient norm may overflow once, and training recover."""
    return {name: None if _is_nan(value) else value for name, value in row.items()}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


# --- resuming ---------------------------------------------------------------------------------------------------------


class FinishedRun(TrainerCallback):
    """Of a run that is resumed after its last step: saves nothing again, and evaluates only what was not evaluated."""

    def __init__(self) -> None:
        self.is_finished = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record whether any step is left; if none is, make the evaluation before which the run was killed."""
        self.is_finished = 0 < state.max_steps <= state.global_step
        # Not left to the end of the epoch: after the last one, transformers enters no epoch. An evaluation by steps
        # comes before the checkpoint of its step.
        if self.is_finished and args.eval_strategy == "epoch" and not self._is_evaluated(state):
            args.eval_on_start = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Neither save nor evaluate the last step again."""
        if self.is_finished:
            control.should_save = control.should_evaluate = False

    @staticmethod
    def _is_evaluated(state: Any) -> bool:
        """Whether the log has an evaluation of the last step."""
        rows = (row for row in state.log_history if row["step"] == state.global_step)
        return any(name.startswith("eval_") for name in chain.from_iterable(rows))


# --- interrupts -------------------------------------------------------------------------------------------------------


class _StopAtStep(TrainerCallback):
    """Saves a checkpoint and stops at the end of the step in which a signal arrives."""

    def __init__(self, accelerator: Any) -> None:
        self.is_requested = False
        self.accelerator = accelerator

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # All processes stop at the same step, whichever got the signal: one that continued alone would wait forever.
        if self.accelerator.num_processes > 1:
            requests = torch.tensor(int(self.is_requested), device=self.accelerator.device)
            self.is_requested = bool(self.accelerator.reduce(requests, "sum"))
        if self.is_requested:
            control.should_save = control.should_training_stop = True


@contextmanager
def stopping_at_a_step(trainer: Trainer) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a checkpoint and then KeyboardInterrupt; a second one is immediate."""
    callback = _StopAtStep(trainer.accelerator)
    trainer.add_callback(callback)
    # In Python, only the main thread can handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request_stop(number: int, frame: Any) -> None:
        if callback.is_requested:
            raise KeyboardInterrupt
        callback.is_requested = True

    previous = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    # A signal during the last step interrupts nothing.
    if callback.is_requested and trainer.state.global_step < trainer.state.max_steps:
        raise KeyboardInterrupt
