"""Worker processes that end with their parent."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from mtcpo.core.errors import UserError

TASKS_PER_WORKER = 2  # one at work and one waiting, so that no worker is idle while this process is busy
TASKS_AHEAD = 32
"""How many tasks this process may finish ahead of a worker's earlier task before it waits for that worker."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def worker_pool(workers: int) -> Iterator[Callable[..., Future[Any]]]:
    """Yield `submit(function, *arguments)`, which runs a call in one of the processes and returns its future.

    Ctrl-C reaches only this process, which then ends the workers.
    """
    # spawn: a fork of a process in which torch has started threads may deadlock.
    with _without_working_directory():
        executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)

    def submit(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        # Workers are started inside `submit` and inherit the signal mask, so they never see the terminal's interrupt.
        with _interrupt_held_back(), _without_working_directory():
            return executor.submit(function, *arguments)

    try:
        yield submit
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _without_working_directory() -> Iterator[None]:
    """Keep the working directory off the module path of Python processes started inside the block.

    multiprocessing starts them with `python -c`, which puts that directory first: a pickle.py there would be executed.
    Afterwards they receive this process's path.
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
    """End this worker when the main process is gone, even if it was killed."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            # Not sys.exit, which would end only this thread.
            os._exit(1)

    Thread(target=wait, daemon=True).start()


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) in order, computed in `workers` processes, this one included.

    Only a bounded number of items is read ahead, so memory stays flat.

    Args:
        function: Defined at the top level of a module, or a partial of such a function: it is pickled.
        items: Tasks of about the same size; each is pickled, but not sent back.
        workers: Number of processes, this one included; with 1, none is started.

    Raises:
        UserError: A process ended before its task did.
    """
    others = workers - 1
    if not others:
        for item in items:
            yield item, function(item)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with worker_pool(others) as submit:
        for item in items:
            running = sum(not future.done() for _, future in waiting)
            if running < others * TASKS_PER_WORKER:
                waiting.append((item, submit(function, item)))
            else:
                # The workers are busy, or have not started yet: this process works instead of waiting.
                waiting.append((item, _finished(function(item))))
            while waiting and (waiting[0][1].done() or len(waiting) >= TASKS_AHEAD + others * TASKS_PER_WORKER):
                oldest, future = waiting.popleft()
                yield oldest, result_of(future)
        for item, future in waiting:
            yield item, result_of(future)


def _finished(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


def result_of(future: Future[Any]) -> Any:
    """Wait for a submitted call and return its result.

    Raises:
        UserError: its process ended before the call did.
    """
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError(
            "a scoring process ended: it was killed, ran out of memory, or was started by a script without "
            "`if __name__ == '__main__':`; use fewer workers, or 1"
        ) from None
