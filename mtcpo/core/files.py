"""Reading and writing files: strict UTF-8, streams, compression by suffix, and names that mean "complete".

A file appears under its final name only when it is complete: writers work on a neighbour named
`.NAME.partial` and rename it at the end.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from mtcpo.core.errors import UserError
from mtcpo.core.parquet import read_parquet, write_parquet

COMPRESSED_BYTES = 1 << 12
"""Read at one time: repetitive text becomes a hundred times as much."""


class TruncatedArchiveError(UserError):
    """A compressed file that ends before its end."""


AS_LINES = "; of one document make one object a line, for example with jq -c '.[]'"


def _open_binary(path: Path, mode: str) -> BinaryIO:
    """Open `path` for bytes, through gzip or zstandard where `path` (less `.partial`) is named so."""
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
    """Reads zstandard frames. The library's own reader takes a file that was cut for a shorter one, without a word."""

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


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each line of a file, its end included: only the last can be without one."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: is a directory; a text file is needed")
    number = 0
    try:
        with _open_binary(path, "rb") as file:
            for number, raw in enumerate(io.BufferedReader(cast(Any, file)), start=1):
                yield number, raw
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except EOFError as error:
        raise TruncatedArchiveError(f"{path}: cut after line {number} ({error}); make or fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged archive after line {number} ({error}); make or fetch it again") from None


def _decoded(raw: bytes, path: Path, number: int) -> str:
    """Return a line as text without its end, and without the mark that some programs put before the first."""
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

    Only `\n` (and `\r\n`) ends a line: U+2028 and its like are part of the text, as every MT tool has it.

    Raises:
        UserError: no such file, a directory, not UTF-8 (with the line), or a damaged archive.
    """
    for number, raw in _raw_lines(path):
        yield _decoded(raw, path, number)


def count_lines(path: Path) -> int:
    """Count the lines of a text file, as `read_lines` yields them."""
    return sum(1 for _ in read_lines(path))


def read_json_lines(path: Path, drops: Counter[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("path:line", object) for each row of a JSON Lines (also .gz, .zst) or Parquet file.

    drops: counts, as `truncated_line`, a last line that ends in its middle because the file or its archive was
    truncated; without it such a file is refused, and so is one whose first line is truncated.

    Raises:
        UserError: a row that is no JSON object, with file and line.
    """
    if path.suffix == ".parquet":
        yield from read_parquet(path)
        return
    for number, raw in _raw_lines(path) if drops is None else _complete_lines(path, drops):
        line = _decoded(raw, path, number)
        if line.strip():
            yield f"{path}:{number}", _object_of(line, path, number)


def _object_of(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        way_out = AS_LINES if number == 1 and line.lstrip()[0] in "[{" else ""
        raise UserError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno}){way_out}") from None
    if not isinstance(row, dict):
        way_out = AS_LINES if isinstance(row, list) else ""
        raise UserError(f"{path}:{number}: a JSON object is needed, not {type(row).__name__}{way_out}")
    return row


def _complete_lines(path: Path, drops: Counter[str]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file up to where it was cut, in the middle of a line or of its archive."""
    number = 0
    try:
        for number, raw in _raw_lines(path):
            if number > 1 and _is_cut(raw):
                drops["truncated_line"] += 1
            else:
                yield number, raw
    except TruncatedArchiveError:
        if number == 0:
            raise
        drops["truncated_line"] += 1


def _is_cut(raw: bytes) -> bool:
    """Whether a line is a file's last, without an end, and only the beginning of a JSON value."""
    if raw.endswith(b"\n"):
        return False
    try:
        json.loads(raw)
    except ValueError:  # no JSON, or half a character
        return bool(raw.strip())
    return False


def partial_path(path: Path) -> Path:
    """Return the name under which `path` is written until it is complete."""
    return path.with_name(f".{path.name}.partial")


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise UserError if `path` exists and may not be overwritten."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; pass --overwrite to replace it, or choose another name")


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Give the partial name to write to; rename it to `path` when the block ends well, remove it when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the name `path`, replacing what was there, when the block ends well."""
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
    """Write a whole UTF-8 file, complete or not at all."""
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        UserError: no such file, not JSON, or JSON of another kind.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is needed, not {type(value).__name__}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, indented, complete or not at all. NaN and infinities are refused."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write `rows` as a stream to JSON Lines (.gz and .zst compressed) or Parquet; return how many there were."""
    with complete_file(path) as partial:
        if path.suffix == ".parquet":
            return write_parquet(partial, rows, path)
        return write_rows_to(partial, rows)


def write_rows_to(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write `rows` to `path` itself, one JSON object a line; return how many there were."""
    count = 0
    with _open_binary(path, "wb") as file:
        for row in rows:
            file.write(json_line(row))
            count += 1
    return count


def json_line(row: Mapping[str, Any]) -> bytes:
    """Return one record as a line of JSON in UTF-8."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names, in hex."""
    if path.is_dir():
        folder = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            folder.update(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n".encode())
        return folder.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()
