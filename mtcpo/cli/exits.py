"""How a command ends: its exit code, one line for a mistake, an interrupt without a traceback."""

from __future__ import annotations

import atexit
import gc
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from threading import Event
from typing import Any, NoReturn

import click

from mtcpo.core.errors import UserError

OUR_FAULT, USER_MISTAKE, INTERRUPTED = 1, 2, 130

_asked_to_stop = Event()
"""Set by the first signal: whatever a library makes of the interrupt, the command ends as interrupted."""


def run_and_leave(group: click.Group, arguments: Sequence[str] | None) -> NoReturn:
    """Run a command and leave with its exit code: 0 done, 1 our fault, 2 the user's mistake, 130 interrupted."""
    _listen_for_interrupts()
    # transformers and peft import it where it is there, and on a CPU it then asks for one more package.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of ASCII gets "?" and no crash
    try:
        _run(group, arguments)
    except (_Interrupted, KeyboardInterrupt):
        _asked_to_stop.set()
    except Exception:
        if not _asked_to_stop.is_set():
            raise
    # Here, where no traceback holds the frames of what was interrupted any more.
    if _asked_to_stop.is_set():
        _leave_interrupted()
    sys.exit(0)


def _run(group: click.Group, arguments: Sequence[str] | None) -> None:
    try:
        group(arguments, prog_name="mtcpo", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(USER_MISTAKE)
    except click.UsageError as error:
        _leave(USER_MISTAKE, _usage_line(error))
    except UserError as error:
        if _asked_to_stop.is_set():
            raise
        _leave(USER_MISTAKE, str(error))
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has gone; the interpreter must not try to flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUR_FAULT)


def _leave(code: int, message: str) -> NoReturn:
    click.echo(f"mtcpo: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _leave_interrupted() -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    after_echo = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C into our line
    click.echo(f"{after_echo}mtcpo: interrupted; repeat the command to go on", err=True)
    sys.stdout.flush()
    gc.collect()  # generators that were interrupted clean up: processes end, temporary files go
    atexit._run_exitfuncs()
    # Not sys.exit: Python kills itself with SIGINT at its end where an interrupt has passed through an exec().
    os._exit(INTERRUPTED)


def _listen_for_interrupts() -> None:
    def interrupt(number: int, frame: Any) -> NoReturn:
        _asked_to_stop.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    # A shell starts background jobs with SIGINT ignored, and so it stays.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)


def _usage_line(error: click.UsageError) -> str:
    """Return click's message as one line: `missing option '--output'; see mtcpo train --help`."""
    message = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "mtcpo"
    return f"{message[:1].lower()}{message[1:]}; see {command} --help"


class _Interrupted(BaseException):
    """A KeyboardInterrupt on its way out of click, which would put an empty line before our own."""


class Group(click.Group):
    """click's group, from which an interrupt comes out without a line of click's own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of a project's work, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None
