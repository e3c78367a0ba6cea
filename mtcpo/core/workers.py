"""Worker processes that end with their parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

from mtcpo.core.errors import UserError


@contextmanager
def worker_pool(workers: int) -> Iterator[Callable[..., Future[Any]]]:
    """Give a function that submits a call to one of the processes: `submit(function, *arguments)`.

    Ctrl-C reaches this process only, which then ends the workers.
    """
    # spawn: a fork of a process in which torch has started threads may deadlock.
    with _without_working_directory():
        executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)

    def submit(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        # A process is started inside `submit` and inherits the signal mask: it never sees the terminal's interrupt.
        with _interrupt_held_back(), _without_working_directory():
            return executor.submit(function, *arguments)

    try:
        yield submit
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _without_working_directory() -> Iterator[None]:
    """Keep the working directory off the module path of Python processes that are started inside the block.

    multiprocessing starts them with `python -c`, which puts it first: a pickle.py there would be executed. They get
    this process's own path afterwards.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this worker when the main process is gone, however that ended."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            # Not sys.exit, which would end this thread only.
            os._exit(1)

    Thread(target=wait, daemon=True).start()


def result_of(future: Future[Any]) -> Any:
    """Return what a submitted call returned.

    Raises:
        UserError: its process ended before the call did.
    """
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError(
            "a scoring process ended: killed, out of memory, or started by a script that lacks "
            "`if __name__ == '__main__':`; use fewer workers, or 1"
        ) from None
