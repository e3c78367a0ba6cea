"""Progress bars."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def bar(description: str, total: int | None, unit: str) -> tqdm[Any]:
    """Return a progress bar, which shows nothing when stderr is not a terminal."""
    return tqdm(total=total, desc=description, unit=f" {unit}", disable=None, leave=False, dynamic_ncols=True)


def quiet_libraries() -> None:
    """Keep loading bars and advice of transformers, accelerate, torch and peft out of the terminal."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    # Such as pin_memory without a GPU: advice for those who call torch themselves.
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|peft)(\.|$)")
