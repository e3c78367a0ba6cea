"""Several processes that translate one input: each holds a lock file while it works, in the folder of the windows.

The first process starts the folder and, when all others have left, joins the windows. A lock is released when its
process ends, however it ends: so the first notices a process that was killed, on whichever machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mtcpo.core.errors import UserError
from mtcpo.core.processes import STARTED, Process

PATIENCE_SECONDS = 600.0
"""How long to wait for a process that has not come: all of them load the same model, but on different machines."""

POLL_SECONDS = 0.1


@contextmanager
def attending(
    folder: Path, process: Process, is_open: Callable[[], bool], is_over: Callable[[], bool]
) -> Iterator[bool]:
    """Wait until the first process has opened the folder, and hold this process's lock during the block.

    is_open: whether the folder is there. is_over: whether the output is written. Yields False in the latter case, when
    the other processes needed nothing of this one.

    Raises:
        UserError: the first process did not come.
    """
    from filelock import FileLock, Timeout

    deadline = time.monotonic() + PATIENCE_SECONDS
    with ExitStack() as stack:
        while not is_over():
            if is_open():
                lock = FileLock(_lock_path(folder, process.rank), timeout=0)
                try:
                    stack.enter_context(lock)
                except Timeout:
                    pass  # held by the first process, which is joining the windows
                else:
                    _sign_path(folder, process.rank).touch()
                    yield True
                    return
            if time.monotonic() > deadline:
                raise UserError(
                    f"{folder}: process 1 of {process.count} has not started there; start all of them together, with "
                    "an output on a disk that all machines see"
                )
            time.sleep(POLL_SECONDS)
        yield False


@contextmanager
def others_have_left(folder: Path, process: Process, is_missing: Callable[[int], bool]) -> Iterator[None]:
    """Wait for all other processes to finish their windows; keep them out during the block.

    is_missing: whether windows of the process of this rank are missing.

    Raises:
        UserError: a process ended before it had finished its windows, or never came.
    """
    with ExitStack() as stack:
        for rank in range(process.count):
            # A process that has not begun to read its sources would find no windows: it must not come in any more.
            if rank != process.rank:
                _wait_for(stack, folder, rank, process.count, is_missing)
        yield


def _wait_for(stack: ExitStack, folder: Path, rank: int, count: int, is_missing: Callable[[int], bool]) -> None:
    """Wait until a process has finished its windows and released its lock, which `stack` then holds."""
    from filelock import FileLock, Timeout

    lock, sign = FileLock(_lock_path(folder, rank), timeout=0), _sign_path(folder, rank)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        # Before the lock: a process that comes in between is not taken for one that has ended.
        has_come = sign.exists() and sign.stat().st_mtime > STARTED
        try:
            lock.acquire()
        except Timeout:
            pass  # it is at work
        else:
            if not is_missing(rank):
                stack.callback(lock.release)
                return
            lock.release()
            if has_come or time.monotonic() > deadline:
                raise UserError(
                    f"process {rank + 1} of {count} {'ended' if has_come else 'did not start'} before its sources were "
                    "translated; what is finished is kept: repeat the command to translate the rest"
                )
        time.sleep(POLL_SECONDS)


def _lock_path(folder: Path, rank: int) -> Path:
    return folder / f"process-{rank}.lock"


def _sign_path(folder: Path, rank: int) -> Path:
    """Return the file that a process touches when it comes."""
    return folder / f"process-{rank}.started"
