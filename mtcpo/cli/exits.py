"""Exit codes of commands, and one-line error messages for the user's mistakes."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from mtcpo.cli.interrupts import ignore_interrupts, is_interrupted, leave_interrupted, raise_on_interrupt
from mtcpo.core.errors import UserError, standing_of

OUR_FAULT, USER_MISTAKE = 1, 2


def run_and_leave(group: click.Group, arguments: Sequence[str] | None) -> NoReturn:
    """Run a command and leave with its exit code: 0 done, 1 our fault, 2 the user's mistake, 130 interrupted."""
    interrupted, standing = False, ""
    try:
        raise_on_interrupt()
        _prepare_output()
        _run(group, arguments)
    except (_Interrupted, KeyboardInterrupt) as interrupt:
        interrupted, standing = True, standing_of(interrupt)
    except Exception as error:
        # Another package may have turned the interrupt into its own exception.
        if not is_interrupted():
            raise
        standing = standing_of(error)
    ignore_interrupts()
    # Outside the handlers above, whose traceback holds the interrupted frames: only now can they be freed.
    if interrupted or is_interrupted():
        leave_interrupted(standing)
    sys.exit(0)


def _prepare_output() -> None:
    # transformers and peft import bitsandbytes if it is installed; without a GPU, it warns about another package.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal shows "?" for "ä", instead of an error


def _run(group: click.Group, arguments: Sequence[str] | None) -> None:
    try:
        group(arguments, prog_name="mtcpo", standalone_mode=False)
    # Before UsageError, its base class: `mtcpo` alone prints its help.
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(USER_MISTAKE)
    except click.UsageError as error:
        _leave(USER_MISTAKE, _usage_line(error))
    except UserError as error:
        # Another package may have turned the interrupt into an error that became a UserError.
        if is_interrupted():
            raise
        _leave(USER_MISTAKE, str(error))
    except BrokenPipeError:
        # The reader of the output, such as `head`, has ended; Python must not flush to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUR_FAULT)


def _leave(code: int, message: str) -> NoReturn:
    click.echo(f"mtcpo: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _usage_line(error: click.UsageError) -> str:
    """Return click's message as one line: `missing option '--output'; see mtcpo train --help`."""
    message = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "mtcpo"
    return f"{message[:1].lower()}{message[1:]}; see {command} --help"


class _Interrupted(BaseException):
    """A KeyboardInterrupt on its way through click, which would print an empty line for it."""


class Group(click.Group):
    """A group of commands in a fixed order; lets interrupts pass without click's empty line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of a project's work, not alphabetically."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            stopped = _Interrupted()
            stopped.add_note(standing_of(interrupt))
            raise stopped from None
