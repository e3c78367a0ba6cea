"""The user's cache, where what is expensive to compute is kept between commands; it may be deleted at any time.

It is inside the cache of `datasets` (HF_DATASETS_CACHE), where users expect such data and have space for them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mtcpo.core.errors import UserError
from mtcpo.core.outputs import DISK_FULL

KEPT_SECONDS = 30 * 24 * 3600
"""Entries that nothing has used for this long are removed when a new one is stored."""

ELSEWHERE = "set the environment variable HF_DATASETS_CACHE to a folder elsewhere"


def user_cache(content: str) -> Path:
    """Return the folder of the cache; create it if it is missing.

    content: what is to be stored there, for the message.

    Raises:
        UserError: it cannot be created or written.
    """
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / "mtcpo"
    reason = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = str(error.strerror).lower()
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: {content} cannot be stored there ({reason or 'no permission'}); {ELSEWHERE}")
    return folder


@contextmanager
def explained_if_full(content: str) -> Iterator[None]:
    """Turn the error of a full disk into a one-line UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(f"{user_cache(content)}: no space left on its disk for {content}; {ELSEWHERE}") from error


def forget_old(entries: Iterable[tuple[Path, Path]]) -> None:
    """Remove entries that nothing has used for KEPT_SECONDS.

    entries: folders, each with a file in it whose modification time is the time of last use.
    """
    for folder, used in entries:
        if time.time() - used.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
