"""Reading and writing files: strict UTF-8, streams, compression by suffix, and atomic writing.

A file appears under its final name only when it is complete: writers work on a temporary file beside it,
`.NAME.partial`, and rename that at the end.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from mtcpo.core.errors import UserError

Row = tuple[str, dict[str, Any]]
"""("file:line", row): a row of a file, and where it is, for messages."""

COMPRESSION_SUFFIXES = (".gz", ".zst")

COMPRESSED_BYTES = 1 << 12
"""Compressed bytes read at a time: repetitive text expands a hundredfold."""


class TruncatedArchiveError(UserError):
    """A compressed file that ends in the middle of its data."""


# --- compressed files -------------------------------------------------------------------------------------------------


def open_binary(path: Path, mode: str) -> BinaryIO:
    """Open `path` in binary mode, through gzip or zstandard if its suffix (before any `.partial`) says so."""
    suffix = path.with_name(path.name.removesuffix(".partial")).suffix
    if suffix == ".gz":
        # mtime=0 and no name in the header: the same records give the same bytes.
        return cast(BinaryIO, gzip.GzipFile("", mode, fileobj=path.open(mode), mtime=0))
    if suffix == ".zst" and mode == "rb":
        return cast(BinaryIO, _ZstandardReader(path))
    if suffix == ".zst":
        import zstandard

        return cast(BinaryIO, zstandard.open(path, mode))
    return cast(BinaryIO, path.open(mode))


class _ZstandardReader(io.RawIOBase):
    """Reads zstandard frames and refuses truncated files, which the zstandard package silently reads as shorter."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._file = path.open("rb")
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            # Bytes left over at the end of a frame are the beginning of the next one.
            data = self._frame.unused_data if self._frame and self._frame.eof else b""
            data = data or self._file.read(COMPRESSED_BYTES)
            if not data:
                if self._frame and not self._frame.eof:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._new_frame()
            try:
                self._ready = memoryview(self._frame.decompress(data))
            except self._error as error:
                raise gzip.BadGzipFile(str(error)) from None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


# --- text -------------------------------------------------------------------------------------------------------------


def read_raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    r"""Yield (line number from 1, bytes) of each line, including its `\n`, which only the last line may lack.

    Raises:
        UserError: no such file, a directory, no permission, or a damaged or truncated archive.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: a directory, not a text file")
    number = 0
    try:
        with open_binary(path, "rb") as file:
            for number, raw in enumerate(io.BufferedReader(cast(Any, file)), start=1):
                yield number, raw
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except EOFError as error:
        raise TruncatedArchiveError(
            f"{path}: truncated after line {number} ({error}); create or download it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged archive after line {number} ({error}); create or download it again") from None


def decode_line(raw: bytes, path: Path, number: int) -> str:
    """Decode a line, without its line end; the first line also without a byte order mark."""
    try:
        text = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number}: not UTF-8 (byte {error.object[error.start]:#04x} at column {error.start + 1}); "
            "convert it, for example with iconv -t UTF-8"
        ) from None
    return text.removeprefix("\ufeff") if number == 1 else text


def read_lines(path: Path) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 text file without their `\n`.

    Only `\n` (and `\r\n`) ends a line: U+2028 and the like are part of the text, as in other MT tools.

    Raises:
        UserError: no such file, a directory, not UTF-8 (with the line), or a damaged archive.
    """
    for number, raw in read_raw_lines(path):
        yield decode_line(raw, path, number)


def count_lines(path: Path) -> int:
    """Count the lines of a text file, as `read_lines` yields them."""
    return sum(1 for _ in read_lines(path))


# --- atomic writing ---------------------------------------------------------------------------------------------------


def partial_path(path: Path) -> Path:
    """Return the temporary file that holds the content of `path` until it is complete."""
    return path.with_name(f".{path.name}.partial")


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise UserError if `path` exists and may not be overwritten."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; pass --overwrite to replace it, or choose another name")


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write to; it is renamed to `path` if the block succeeds, and removed otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; if the block succeeds, it is renamed to `path`, replacing what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, completely or not at all."""
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        UserError: no such file, not JSON, or JSON that is not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); create it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is needed, not {type(value).__name__}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON document, completely or not at all; NaN and infinities raise ValueError."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, or of a folder: the names and contents of all its files."""
    if path.is_dir():
        total = hashlib.sha256()
        for file in sorted(filter(Path.is_file, path.rglob("*"))):
            total.update(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n".encode())
        return total.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()
