"""Ctrl-C and SIGTERM: exit code 130 and one line on stderr, however early the signal comes.

The command line imports this module before everything else, so it imports nothing but the standard library. While the
commands are being imported, nothing is open yet, and a signal ends the process at once. After that, it raises
KeyboardInterrupt, which unwinds the command: temporary files are removed, locks released, processes ended.
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
"""Exit code of a program stopped with Ctrl-C, as in shells: 128 + SIGINT."""

SECONDS_TO_ASK_AGAIN = 0.01

_requested = threading.Event()
"""Set by the first signal: other packages may convert or lose a KeyboardInterrupt, but not this."""


def exit_on_interrupt() -> None:
    """From now on, a signal ends the process at once: safe as long as nothing is open."""
    _handle_signals(_exit_at_once)


def raise_on_interrupt() -> None:
    """From now on, a signal raises KeyboardInterrupt in the main thread."""
    _handle_signals(_raise)


def ignore_interrupts() -> None:
    """From now on, signals are ignored: the work is done, or is being cleaned up."""
    _handle_signals(signal.SIG_IGN)


def is_interrupted() -> bool:
    """Whether a signal has been received, whatever happened to its KeyboardInterrupt."""
    return _requested.is_set()


def leave_interrupted(standing: str = "") -> NoReturn:
    """Clean up after the interrupted command, print the message, and end the process.

    standing: where the work stands, such as "saved at step 679 of 1,668".
    """
    ignore_interrupts()
    _say_interrupted(standing)
    sys.stdout.flush()
    gc.collect()  # interrupted generators now run their `finally`: processes end, temporary files are removed
    # os._exit skips exit handlers, among them those that end worker processes; there is no public way to run them.
    atexit._run_exitfuncs()
    # Not sys.exit: if a KeyboardInterrupt has passed through exec(), Python would kill itself with SIGINT at exit.
    os._exit(INTERRUPTED)


def _handle_signals(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    signal.signal(signal.SIGTERM, handler)
    # A shell without job control starts background jobs with SIGINT ignored: keep that.
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
    """Handle exceptions that Python would only print: in a destructor, or in a callback of the import system.

    A KeyboardInterrupt raised there is lost, and the command would continue: send another signal.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        # From another thread: a signal raised here would be handled inside the same destructor. SIGTERM, because SIGINT
        # may be ignored.
        threading.Timer(SECONDS_TO_ASK_AGAIN, os.kill, (os.getpid(), signal.SIGTERM)).start()


def _say_interrupted(standing: str = "") -> None:
    after_echo = "\n" if sys.stderr.isatty() else ""  # the terminal has echoed ^C on this line
    where = f": {standing}" if standing else ""
    print(f"{after_echo}mtcpo: interrupted{where}; repeat the command to resume", file=sys.stderr, flush=True)  # noqa: T201
