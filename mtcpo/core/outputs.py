"""The output of a command: checked before the work starts, locked meanwhile; disk errors become one-line messages."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mtcpo.core.errors import UserError
from mtcpo.core.files import refuse_existing
from mtcpo.core.processes import is_first_process

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
)  # fmt: skip


@contextmanager
def writing(output: Path, overwrite: bool, folder: bool = False, inputs: Iterable[str | None] = ()) -> Iterator[None]:
    """Refuse an unwritable output, lock it, and turn disk errors raised in the block into one-line UserErrors.

    folder: whether the output is a folder. inputs: what the command reads; None and names of data sets are ignored.

    Raises:
        UserError: the output exists and `overwrite` is off; it is one of the inputs; it is a folder where a file is
            needed, or the reverse; another process is writing it; no permission, or no space.
    """
    try:
        _check_place(output, folder)
        _check_inputs(output, inputs)
        refuse_existing(output, overwrite)
        with _locked(output):
            yield
    except UserError:
        raise
    except Exception as error:
        message = _explain_disk_error(error, output)
        if message is None:
            raise
        raise UserError(message) from error


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Lock the output: two commands that resume the same unfinished file would mix their lines."""
    # The processes of one launch work together: rank 0 holds the lock for all of them.
    if not is_first_process():
        yield
        return
    missing = [folder for folder in output.parents if not folder.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # what virtual file systems such as /proc raise
        raise UserError(f"{output}: no folder can be created there; choose another output") from None
    # Imported here: the import would be a fifth of the time of `mtcpo --help`, which locks nothing.
    from filelock import FileLock, Timeout

    path = output.with_name(f".{output.name}.lock")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{output}: another mtcpo process is writing it; wait until it has finished, or choose another output"
        ) from None
    try:
        yield
    finally:
        if os.name != "nt":  # Windows refuses to remove an open file; there filelock removes it on release
            path.unlink(missing_ok=True)
        lock.release()
        _remove_empty(missing)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, innermost first, until one is not empty: a refused command leaves no folders behind."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return  # not empty, or already gone


def _check_place(output: Path, folder: bool) -> None:
    if output.exists() and output.is_dir() != folder:
        kind, needed = ("file", "folder") if folder else ("folder", "file")
        raise UserError(f"{output} is a {kind}, and a {needed} is needed; choose another output")
    path = output.absolute()
    folders = (path, *path.parents) if folder else path.parents
    nearest = next(filter(Path.exists, folders))  # the root always exists
    if not nearest.is_dir():
        raise UserError(f"{output}: {nearest} is a file, not a folder; choose another output")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{output}: no permission to write in {nearest}; choose another output")


def _check_inputs(output: Path, inputs: Iterable[str | None]) -> None:
    if not output.exists():
        return
    for name in inputs:
        if name and Path(name).exists() and Path(name).samefile(output):
            raise UserError(f"{output} is also an input of this command and would be lost; choose another output")


def _explain_disk_error(error: Exception, output: Path) -> str | None:
    """Return the message if a full disk or a missing permission is in the chain of causes, else None."""
    cause: BaseException | None = error
    while cause is not None:
        # safetensors and torch raise their own exceptions, which keep only the text of the OSError.
        text = str(cause)
        is_full = isinstance(cause, OSError) and cause.errno in DISK_FULL
        if is_full or "No space left on device" in text or "Os { code: 28" in text:
            return f"{output}: no space left on its disk; free some, or choose another output, and repeat the command"
        if isinstance(cause, OSError) and cause.errno in NOT_WRITABLE and _is_near(cause.filename or output, output):
            return f"{output}: cannot be written ({os.strerror(cause.errno).lower()}); choose another output"
        cause = cause.__cause__ or cause.__context__
    return None


def _is_near(name: str | Path, output: Path) -> bool:
    """Whether a path is the output, lies in it or beside it, or is one of its parent folders."""
    parent, path = output.absolute().parent, Path(name).absolute()
    return path.is_relative_to(parent) or parent.is_relative_to(path)
