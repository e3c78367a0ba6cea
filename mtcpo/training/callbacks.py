"""Trainer callbacks: the progress bar on stderr, interrupts, and resuming a finished run."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from mtcpo.core.progress import bar
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


class TrainingBar(TrainerCallback):
    """A progress bar over optimizer steps that shows loss and reward accuracy instead of log lines."""

    SHOWN = (("loss", "loss"), ("accuracy", "rewards/accuracies"), ("margin", "rewards/margins"))

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start at the step that a resumed run has reached."""
        if state.is_world_process_zero:
            self.bar = bar(self.description, state.max_steps, "steps")
            self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance by one optimizer step."""
        if self.bar is not None:
            self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the newest figures."""
        if self.bar is not None and logs is not None and "loss" in logs:
            self.bar.set_postfix({short: f"{logs[name]:.3g}" for short, name in self.SHOWN if name in logs})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Print the figures of an evaluation and the sample translations, if a dev set was translated."""
        samples = state.log_history[-1].get("samples") if state.log_history else None
        if samples and metrics and state.is_world_process_zero:
            for line in evaluation_lines(state.global_step, metrics, samples):
                # Not print, which would break the bar.
                tqdm.write(line, file=sys.stderr)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


# --- resuming ---------------------------------------------------------------------------------------------------------


class FinishedRun(TrainerCallback):
    """Keeps a run that is resumed after its last step from saving and evaluating that step again."""

    def __init__(self) -> None:
        self.is_finished = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record whether any step is left."""
        self.is_finished = 0 < state.max_steps <= state.global_step

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save nothing, and evaluate only if the run was killed between its last checkpoint and its evaluation."""
        if not self.is_finished:
            return
        control.should_save = False
        for row in state.log_history:
            if row["step"] == state.global_step and any(name.startswith("eval_") for name in row):
                control.should_evaluate = False


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
