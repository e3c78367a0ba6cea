"""The finished windows of an unfinished output: one file each, in a hidden folder beside the output.

    .candidates.jsonl.windows/settings.json      what the candidates depend on, besides the sources
                              000000.jsonl       a line with counts, then the segments of the first window
                              000001.jsonl       ...

A file appears under its name when it is complete: whichever process is killed, whatever was finished is kept.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.files import Row, read_json, write_json
from mtcpo.core.processes import ALONE, Process, is_written_by_others
from mtcpo.data.file_formats.json_lines import read_json_lines
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Segment, segment_to_json
from mtcpo.translation.attendance import attending, others_have_left

IDENTITY = itemgetter("id", "src_lang", "tgt_lang", "source")
"""The fields of a row by which a resumed run recognizes its sources."""


def identity_of(segment: Segment) -> tuple[str, str, str, str]:
    """Return the fields of IDENTITY of a segment."""
    return segment.id, segment.src_lang, segment.tgt_lang, segment.source


@dataclass(frozen=True, slots=True)
class Part:
    """Which windows of an input a process translates.

    shard: from 0, one of `shards`, each with an output of its own. process: one of those that share the work.
    """

    shard: int = 0
    shards: int = 1
    process: Process = ALONE

    def is_in_shard(self, number: int) -> bool:
        """Whether a window belongs to this shard."""
        return number % self.shards == self.shard

    def rank_of(self, number: int) -> int:
        """Return the rank of the process that translates a window of this shard."""
        return number // self.shards % self.process.count

    def is_mine(self, number: int) -> bool:
        """Whether a window is to be translated here."""
        return self.is_in_shard(number) and self.rank_of(number) == self.process.rank


WHOLE = Part()


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of an unfinished output, numbered from 0."""

    output: Path
    part: Part

    @property
    def folder(self) -> Path:
        """Return the folder of the windows."""
        return self.output.with_name(f".{self.output.name}.windows")

    @property
    def _settings(self) -> Path:
        return self.folder / "settings.json"

    def file(self, number: int) -> Path:
        """Return the file of a window."""
        return self.folder / f"{number:06}.jsonl"

    def opened(self, settings: Mapping[str, Any], overwrite: bool) -> AbstractContextManager[bool]:
        """Keep the finished windows of the same settings, or start a new folder; yield whether there is work to do.

        Raises:
            UserError: the folder has other settings, and may not be overwritten; the first process did not come.
        """
        process = self.part.process
        # Only the first may start a folder: two that discard an old one would remove each other's windows.
        if process.rank == 0:
            self._start(settings, overwrite)
            return nullcontext(True)
        return attending(
            self.folder,
            process,
            lambda: self._has(settings, overwrite),
            lambda: is_written_by_others(self.output),
        )

    def _start(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        if self._has(settings, overwrite):
            return
        # Windows of other settings, or a folder that was killed before its settings were written.
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        write_json(self._settings, dict(settings))

    def _has(self, settings: Mapping[str, Any], overwrite: bool) -> bool:
        """Whether the folder is there, with these settings."""
        if not self._settings.exists():
            return False
        is_same = read_json(self._settings) == settings
        if not is_same and not overwrite:
            raise UserError(
                f"{self.folder}: an unfinished run with a different model or settings; repeat the command with "
                "those to finish it, or pass --overwrite to discard it"
            )
        return is_same

    def numbers(self) -> set[int]:
        """Return the numbers of the finished windows."""
        return {int(path.stem) for path in self.folder.glob("[0-9]*.jsonl")}

    def segments(self) -> int:
        """Return the number of segments in all finished windows."""
        return sum(int(self._read(number)[0]["segments"]) for number in self.numbers())

    def write(self, number: int, segments: Sequence[Segment], counts: Mapping[str, int]) -> None:
        """Write a window, completely or not at all. counts: as of `Decoder`, for this window."""
        # In the same file, so that a window and its counts appear together.
        header = {"window": number, "segments": len(segments), "counts": dict(counts)}
        write_row_file(self.file(number), itertools.chain([header], map(segment_to_json, segments)))

    def check(self, number: int, segments: Sequence[Segment]) -> None:
        """Raise UserError if a finished window has other sources than these."""
        header, rows = self._read(number)
        # Sources before their number, so that the message names the first line that differs.
        for (where, row), segment in zip(rows, segments, strict=False):
            if IDENTITY(row) != identity_of(segment):
                raise self._other_sources(where)
        if header["segments"] != len(segments):
            raise self._other_sources(str(self.file(number)))

    def _other_sources(self, where: str) -> UserError:
        return UserError(
            f"{where}: the unfinished run had different sources; give the same ones to finish it, or delete "
            f"{self.folder} to start again"
        )

    def wait_for_others(self, count: int) -> AbstractContextManager[None]:
        """Wait until all windows below `count` are there; keep the other processes out during the block."""

        def is_missing(rank: int) -> bool:
            missing = set(self._numbers_below(count)) - self.numbers()
            return rank in map(self.part.rank_of, missing)

        return others_have_left(self.folder, self.part.process, is_missing)

    def _numbers_below(self, count: int) -> range:
        return range(self.part.shard, count, self.part.shards)

    def total(self, count: int) -> Counter[str]:
        """Return the sums of the counts of the windows below `count`, and the number of their segments."""
        total: Counter[str] = Counter(segments=0)
        for number in self._numbers_below(count):
            header, _ = self._read(number)
            total.update(header["counts"])
            total["segments"] += header["segments"]
        return total

    def join(self, count: int) -> None:
        """Write the output from the windows below `count`, in input order.

        Raises:
            UserError: there are more windows: the unfinished run had more sources.
        """
        surplus = self.numbers() - set(self._numbers_below(count))
        if surplus:
            raise self._other_sources(str(self.file(min(surplus))))
        write_row_file(self.output, self._rows(count))

    def _rows(self, count: int) -> Iterator[dict[str, Any]]:
        for number in self._numbers_below(count):
            for _, row in self._read(number)[1]:
                yield row

    def _read(self, number: int) -> tuple[dict[str, Any], Iterator[Row]]:
        """Return the first line of a window's file, and its segments."""
        rows = read_json_lines(self.file(number))
        _, header = next(rows)
        return header, rows

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)
