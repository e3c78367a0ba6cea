"""Progress bars."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from mtcpo.core.processes import is_first_process


def bar(description: str, total: int | None, unit: str) -> tqdm[Any]:
    """Return a progress bar on stderr; it shows nothing if stderr is not a terminal."""
    return tqdm(total=total, desc=description, unit=f" {unit}", disable=None, leave=False, dynamic_ncols=True)


def say(line: str) -> None:
    """Write a line to stderr, above a progress bar if there is one; of several processes, only the first does."""
    if is_first_process():
        tqdm.write(line, file=sys.stderr)


def quiet_libraries() -> None:
    """Silence the loading bars and advisory warnings of transformers, accelerate, torch and peft."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    # For example about pin_memory without a GPU: advice for people who call torch themselves.
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|peft)(\.|$)")
