"""Ctrl-C and SIGTERM: exit code 130 and one line on stderr, however early the signal comes.

The command line imports this module before everything else, so it imports nothing but the standard library. While the
commands themselves are being imported nothing is open yet, and a signal ends the process at once. From then on it
raises KeyboardInterrupt, which unwinds the command: partial files go, locks are released, processes end.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 130
"""Exit code, as of a program that a shell stops with Ctrl-C: 128 + SIGINT."""

SECONDS_TO_ASK_AGAIN = 0.01

_requested = threading.Event()
"""Set by the first signal: libraries turn a KeyboardInterrupt into errors of their own, or lose it, but not this."""


def exit_on_interrupt() -> None:
    """From now on a signal ends the process at once: right while nothing is open yet."""
    _handle_signals(_exit_at_once)


def raise_on_interrupt() -> None:
    """From now on a signal raises KeyboardInterrupt in the main thread."""
    _handle_signals(_raise)


def ignore_interrupts() -> None:
    """From now on signals do nothing: the work is done, or is being cleaned up."""
    _handle_signals(signal.SIG_IGN)


def is_interrupted() -> bool:
    """Tell whether a signal has come, whatever became of its KeyboardInterrupt."""
    return _requested.is_set()


def leave_interrupted() -> NoReturn:
    """Clean up what the interrupted command left, say that it was interrupted, and end the process."""
    ignore_interrupts()
    _say_interrupted()
    sys.stdout.flush()
    gc.collect()  # generators that were interrupted run their `finally` now: processes end, temporary files go
    # os._exit skips exit handlers, among them those that end worker processes; there is no public way to run them.
    atexit._run_exitfuncs()
    # Not sys.exit: where a KeyboardInterrupt has passed through an exec(), Python ends by killing itself with SIGINT.
    os._exit(INTERRUPTED)


def _handle_signals(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    signal.signal(signal.SIGTERM, handler)
    # A shell without job control starts background jobs with SIGINT ignored, and so it stays.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _exit_at_once(number: int, frame: FrameType | None) -> NoReturn:
    _say_interrupted()
    # No clean-up: nothing is open, and exit handlers of half-imported modules may not work.
    os._exit(INTERRUPTED)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    _requested.set()
    sys.unraisablehook = _raise_again
    raise KeyboardInterrupt


def _raise_again(unraisable: Any) -> None:
    """Take what Python would only print: an exception in a destructor, or in a callback of the import system.

    A KeyboardInterrupt raised there is lost, and the command would go on as if no signal had come: ask once more.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        # From another thread: a signal raised here would be handled inside the same destructor. SIGTERM, since a shell
        # may have had SIGINT ignored.
        threading.Timer(SECONDS_TO_ASK_AGAIN, os.kill, (os.getpid(), signal.SIGTERM)).start()


def _say_interrupted() -> None:
    after_echo = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C into our line
    print(f"{after_echo}mtcpo: interrupted; run the same command again to resume", file=sys.stderr, flush=True)  # noqa: T201
