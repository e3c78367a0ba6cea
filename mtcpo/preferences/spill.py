"""Temporary files for data that grows with the input and cannot be streamed: hashes and rows.

Numbers, at 8 bytes each, stay in memory, in arrays (`balancing`, `statistics`).
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mtcpo.data.file_formats.json_lines import json_line

KIB_IN_MEMORY = 512
"""Page cache of the database; SQLite's default is four times as much."""


def hash_of(*parts: str) -> bytes:
    """Return a 16-byte hash of a sequence of texts."""
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


class HashSet:
    """A set of hashes in a SQLite database: a Python set would take about 80 bytes of memory for each."""

    def __init__(self) -> None:
        # An empty name: SQLite creates a private temporary file and removes it when the connection is closed.
        self._rows = sqlite3.connect("", isolation_level=None)
        self._rows.execute(f"PRAGMA cache_size = -{KIB_IN_MEMORY}")
        self._rows.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")
        # One transaction for all rows: nothing needs to survive a crash, and commits would be slow.
        self._rows.execute("BEGIN")

    def add(self, hashed: bytes) -> bool:
        """Add a hash; return whether it is new."""
        return self._rows.execute("INSERT OR IGNORE INTO seen VALUES (?)", (hashed,)).rowcount > 0

    def close(self) -> None:
        """Remove the database."""
        self._rows.close()


class Spool:
    """Rows in a temporary file, written once and then read in order. count: of rows."""

    def __init__(self, folder: Path) -> None:
        # In the folder of the output, not in /tmp: there is room for data there, and /tmp may be memory.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by close()
        self.count = 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        self._file.write(json_line(row))
        self.count += 1

    def lines(self) -> Iterator[bytes]:
        """Yield the rows from the first, each as a line of JSON."""
        self._file.seek(0)
        yield from self._file

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows from the first."""
        yield from map(json.loads, self.lines())

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
