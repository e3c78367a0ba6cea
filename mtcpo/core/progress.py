"""Progress bars."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


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
