"""What a person sees while a stage works: a bar on stderr, and nothing where stderr is no terminal."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback


def bar(description: str, total: int | None, unit: str) -> tqdm[Any]:
    """Return a progress bar; it stays silent when stderr goes to a file."""
    return tqdm(total=total, desc=description, unit=f" {unit}", disable=None, leave=False, dynamic_ncols=True)


def quiet_libraries() -> None:
    """Leave the terminal to our own lines: loading bars and advice of the libraries stay out of it."""
    import logging
    import warnings

    from transformers.utils import logging as library

    library.set_verbosity_error()
    library.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    # pin_memory without a GPU, and the like: advice for those who call torch themselves.
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|peft)(\.|$)")


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

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the line to what is printed next."""
        if self.bar is not None:
            self.bar.close()
