"""Text files that are aligned line by line: line n of each file belongs to line n of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from mtcpo.core.errors import UserError
from mtcpo.core.files import count_lines, read_lines


def read_aligned(paths: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """Yield line 1 of all files, then line 2, and so on.

    Raises:
        UserError: the files differ in length; for regular files, raised before the first line is yielded.
    """
    # Checked now, not after hours of scoring. A pipe can be read only once, so its length is known only at its end.
    if all(path.is_file() for path in paths):
        _check_counts({str(path): count_lines(path) for path in paths})
    readers = [read_lines(path) for path in paths]
    for number, lines in enumerate(zip_longest(*readers)):
        if None in lines:
            counts = {}
            for path, line, reader in zip(paths, lines, readers, strict=True):
                rest = sum(1 for _ in reader)
                counts[str(path)] = number + (line is not None) + rest
            _check_counts(counts)
        yield lines


def _check_counts(counts: Mapping[str, int]) -> None:
    """Refuse files with another line count than the first; there may be dozens, so only those are listed."""
    first, expected = next(iter(counts.items()))
    listed = [f"{first} has {expected}"]
    for name, count in counts.items():
        if count != expected:
            listed.append(f"{name} has {count}")
    if len(listed) > 1:
        raise UserError(f"line counts differ: {', '.join(listed)}; the files must be aligned line by line")
