"""The entry point of the command line: it sets up interrupts first, then imports the commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from mtcpo.cli.interrupts import exit_on_interrupt


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit code: 0 done, 1 our fault, 2 the user's mistake, 130 interrupted."""
    exit_on_interrupt()
    from mtcpo.cli.commands import mtcpo
    from mtcpo.cli.exits import run_and_leave

    run_and_leave(mtcpo, arguments)
