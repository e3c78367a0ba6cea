"""Where a command writes: looked at before the work, its own while it works, explained when the disk refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mtcpo.core.errors import UserError
from mtcpo.core.files import refuse_existing

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
)  # fmt: skip


@contextmanager
def writing(output: Path, overwrite: bool, folder: bool = False, inputs: Iterable[str | None] = ()) -> Iterator[None]:
    """Refuse an output that cannot or may not be written; say of the block what the disk had against it.

    inputs: what the command reads, as far as it is files; None and names of other things do not matter.

    Raises:
        UserError: it exists and `overwrite` is off; it is one of the inputs; it is a folder where a file is meant, or
            the other way round; another process is writing it; no permission, or no space.
    """
    try:
        _check_place(output, folder)
        _check_inputs(output, inputs)
        refuse_existing(output, overwrite)
        with _alone(output):
            yield
    except UserError:
        raise
    except Exception as error:
        trouble = _disk_trouble(error, output)
        if trouble is None:
            raise
        raise UserError(trouble) from error


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep other commands from the same output: two that resume one unfinished file would mix their lines."""
    # The processes of one launch work together; the first of them holds the lock for all.
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    made = [folder for folder in output.parents if not folder.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # the answer of a file system that is no disk, such as /proc
        raise UserError(f"{output}: no folder can be made there; choose another output") from None
    path = output.with_name(f".{output.name}.lock")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{output}: another mtcpo is writing it at this moment; wait until it has ended, or choose another output"
        ) from None
    try:
        yield
    finally:
        if os.name != "nt":  # there the library removes it, which an open file could not be
            path.unlink(missing_ok=True)
        lock.release()
        _remove_empty(made)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, that a refused command has made for nothing."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return  # something lies in it, or it is gone with what was replaced


def _check_place(output: Path, folder: bool) -> None:
    if output.exists() and output.is_dir() != folder:
        there, needed = ("file", "folder") if folder else ("folder", "file")
        raise UserError(f"{output} is a {there}, and a {needed} is needed; choose another output")
    path = output.absolute()
    place = next(place for place in ((path, *path.parents) if folder else path.parents) if place.exists())
    if not place.is_dir():
        raise UserError(f"{output}: {place} is a file and no folder; choose another output")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{output}: no permission to write in {place}; choose another output")


def _check_inputs(output: Path, inputs: Iterable[str | None]) -> None:
    if not output.exists():
        return
    for name in inputs:
        if name and Path(name).exists() and Path(name).samefile(output):
            raise UserError(f"{output} is an input of this command too, and would be lost; choose another output")


def _disk_trouble(error: Exception, output: Path) -> str | None:
    """Return the line for a full disk or a forbidden place, wherever in the chain of causes it hides."""
    cause: BaseException | None = error
    while cause is not None:
        # safetensors and torch wrap the system's error in one of their own, with its text.
        text = str(cause)
        full = isinstance(cause, OSError) and cause.errno in FULL
        if full or "No space left on device" in text or "Os { code: 28" in text:
            return f"{output}: no space left on its disk; free some, or choose another output, and repeat the command"
        if isinstance(cause, OSError) and cause.errno in FORBIDDEN and _is_near(cause.filename or output, output):
            return f"{output}: cannot be written ({os.strerror(cause.errno).lower()}); choose another output"
        cause = cause.__cause__ or cause.__context__
    return None


def _is_near(name: str | Path, output: Path) -> bool:
    """Tell whether a file is the output, in it, beside it, or a folder on the way to it."""
    place, path = output.absolute().parent, Path(name).absolute()
    return path.is_relative_to(place) or place.is_relative_to(path)
