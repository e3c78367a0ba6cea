"""What grows with the data and cannot pass by as a stream: kept in temporary files, a few pages of it in memory."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Collection, Iterator, Sequence

KIB_IN_MEMORY = 512
"""Of each database; SQLite's default is four times as much, for several of them at a time."""


def temporary_database(schema: str) -> sqlite3.Connection:
    """Return a database in a nameless file that nobody else sees and that goes with it."""
    connection = sqlite3.connect("", isolation_level=None)
    connection.execute(f"PRAGMA cache_size = -{KIB_IN_MEMORY}")
    connection.execute(schema)
    connection.execute("BEGIN")  # one transaction for all: nothing of it is to outlive a crash
    return connection


class Column(Collection[float]):
    """Numbers in the order in which they came, or by size."""

    def __init__(self) -> None:
        self._rows = temporary_database("CREATE TABLE numbers (place INTEGER PRIMARY KEY, value REAL NOT NULL)")
        self._count = 0

    def append(self, value: float) -> None:
        """Add one more; a finite one."""
        self._rows.execute("INSERT INTO numbers VALUES (?, ?)", (self._count, value))
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[float]:
        for (value,) in self._rows.execute("SELECT value FROM numbers ORDER BY place"):
            yield value

    def __contains__(self, value: object) -> bool:
        return any(value == one for one in self)

    def by_size(self, largest_first: bool = False) -> Iterator[tuple[int, float]]:
        """Yield place and value, equal values in their order."""
        order = "DESC" if largest_first else "ASC"
        yield from self._rows.execute(f"SELECT place, value FROM numbers ORDER BY value {order}, place")

    def mean(self) -> float:
        """Return the mean, rounded once. There is at least one number."""
        return math.fsum(self) / self._count

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return the values below which these shares of the numbers lie, ascending, interpolated linearly."""
        wanted = [share * (self._count - 1) for share in shares]
        needed = {step for position in wanted for step in (math.floor(position), math.ceil(position))}
        values = {rank: value for rank, (_, value) in enumerate(self.by_size()) if rank in needed}
        return [_between(values, position) for position in wanted]

    def close(self) -> None:
        """Forget the numbers."""
        self._rows.close()


def _between(values: dict[int, float], position: float) -> float:
    low, high = values[math.floor(position)], values[math.ceil(position)]
    return low + (high - low) * (position - math.floor(position))
