"""What a person sees while a stage works: a bar on stderr, and nothing where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from mtcpo.core.progress import bar

NOT_SHOWN = ("_runtime", "_per_second", "_preparation_time")
"""Ends of the names of figures about an evaluation's speed."""


def evaluation_lines(step: int, metrics: Mapping[str, float], samples: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield the lines that tell of an evaluation: its figures, then translations below their sources."""
    shown = {name.removeprefix("eval_"): value for name, value in metrics.items() if not name.endswith(NOT_SHOWN)}
    yield f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items() if name != "epoch")
    for sample in samples:
        for name in ("source", "reference", "translation"):
            text = " ".join(sample[name].split())
            # A model may write anything, and a terminal obeys what it is sent.
            yield f"  {name:<12}" + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        yield ""


class TrainingBar(TrainerCallback):
    """A bar over optimizer steps that shows the loss and how many pairs are ranked right, in place of log lines."""

    SHOWN = (("loss", "loss"), ("accuracy", "rewards/accuracies"), ("margin", "rewards/margins"))

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start at the step that a resumed run goes on from."""
        if state.is_world_process_zero:
            self.bar = bar(self.description, state.max_steps, "steps")
            self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move by one optimizer step."""
        if self.bar is not None:
            self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the newest figures."""
        if self.bar is not None and logs is not None and "loss" in logs:
            self.bar.set_postfix({short: f"{logs[name]:.3g}" for short, name in self.SHOWN if name in logs})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Write what an evaluation found, and the sample translations, if a dev set was translated."""
        samples = state.log_history[-1].get("samples") if state.log_history else None
        if samples and metrics and state.is_world_process_zero:
            for line in evaluation_lines(state.global_step, metrics, samples):
                tqdm.write(line, file=sys.stderr)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the line to what is printed next."""
        if self.bar is not None:
            self.bar.close()
