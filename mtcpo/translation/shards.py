"""Shards: an input that several commands translate, each to an output of its own, and how these become one file.

Beside a shard's output lies its record, `NAME.shard.json`: which shard it is, of which sources, by which settings.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.files import read_json, write_json
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Segment, segment_to_json
from mtcpo.data.rows import read_segments
from mtcpo.translation.windows import identity_of


def parse_shard(text: str) -> tuple[int, int]:
    """Return (number from 0, number of shards) of a text such as "1/4", which counts from 1.

    Raises:
        UserError: it is none.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard {text}: give the number of the shard and how many there are, from 1/4 to 4/4")
    return int(match[1]) - 1, int(match[2])


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What a shard is.

    shard: from 1. window: sources that are adjacent in the input. sources: of the whole input; sources_sha256: of their
    identities. fingerprint: of model and settings. counts: as `Decoder` has them, for this shard.
    """

    shard: int
    shards: int
    window: int
    fingerprint: str
    sources: int
    sources_sha256: str
    counts: Mapping[str, int]

    def write(self, output: Path) -> None:
        """Write the record of a shard's output."""
        write_json(record_path(output), asdict(self))

    @classmethod
    def read(cls, output: Path) -> ShardRecord:
        """Read the record of a shard's output.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = record_path(output)
        if not path.exists():
            raise UserError(f"{path}: no such file; it belongs to the shard {output}: keep the two together")
        try:
            return cls(**read_json(path))
        except TypeError:
            raise UserError(f"{path}: not the record of a shard; translate {output} again") from None

    @property
    def origin(self) -> tuple[Any, ...]:
        """What the shards of one input have in common."""
        return self.shards, self.window, self.fingerprint, self.sources, self.sources_sha256


def record_path(output: Path) -> Path:
    """Return the file that says which shard an output is."""
    return output.with_name(f"{output.name}.shard.json")


@dataclass(slots=True)
class SourceHash:
    """A hash of the identities of sources, in their order, and their number."""

    count: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)

    def passing(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """Yield the segments, adding their sources."""
        for segment in segments:
            self.count += 1
            # As JSON, which keeps the values apart, whatever they contain.
            self._hash.update(json.dumps(identity_of(segment)).encode())
            yield segment

    def hexdigest(self) -> str:
        """Return the hash of all sources so far."""
        return str(self._hash.hexdigest())


def merge_shards(shards: Sequence[Path], output: Path) -> Counter[str]:
    """Write the segments of all shards of an input to `output`, in input order; return the sum of their counts.

    Raises:
        UserError: a shard is missing, given twice, or has other sources or settings than the first; a file does not
            hold what its record says.
    """
    records = list(map(ShardRecord.read, shards))
    in_order = _by_number(shards, records)
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.counts)
    write_row_file(output, _in_input_order(in_order, records[0]))
    return counts


def _by_number(paths: Sequence[Path], records: Sequence[ShardRecord]) -> list[Path]:
    """Return the files in the order of their numbers, after checking that they belong together."""
    first_path, first = paths[0], records[0]
    by_number: dict[int, Path] = {}
    for path, record in zip(paths, records, strict=True):
        if record.origin != first.origin:
            raise UserError(
                f"{path}: a shard of other sources, settings or model than {first_path}; translate it again with those"
            )
        if record.shard in by_number:
            raise UserError(f"{path}: shard {record.shard}/{record.shards}, as {by_number[record.shard]}; give one")
        by_number[record.shard] = path
    missing = sorted(set(range(1, first.shards + 1)) - by_number.keys())
    if missing:
        numbers = ", ".join(map(str, missing))
        raise UserError(f"shard {numbers} of {first.shards} is missing; give all of them")
    return list(map(by_number.__getitem__, sorted(by_number)))


def _in_input_order(paths: Sequence[Path], record: ShardRecord) -> Iterator[dict[str, Any]]:
    """Yield the whole input: a window of each shard in turn."""
    # As segments, because Parquet has null for what is an empty object in JSON Lines.
    readers = list(map(read_segments, paths))
    sources = SourceHash()
    yield from map(segment_to_json, sources.passing(_in_turn(readers, record.window)))
    # Only now is every source known. The output is not there yet: it gets its name when all rows are written.
    if (sources.count, sources.hexdigest()) != (record.sources, record.sources_sha256):
        raise UserError(
            f"{', '.join(map(str, paths))}: not the sources that were translated ({sources.count} instead of "
            f"{record.sources}, or in another order); copy the shards again"
        )


def _in_turn(readers: Sequence[Iterator[Segment]], window: int) -> Iterator[Segment]:
    for reader in itertools.cycle(readers):
        segments = list(itertools.islice(reader, window))
        if not segments:
            return  # windows go round: the first that is missing is beyond the end of the input
        yield from segments
