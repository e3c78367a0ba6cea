"""`mtcpo translate`: write candidates for every source, in input order, to a file; resumable.

Sources are processed in windows. A window is translated in batches of similar length and written as a whole: memory
does not grow with the input, and a resumed run writes the same as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.files import partial_path, refuse_existing, write_json
from mtcpo.core.progress import skip_in_progress
from mtcpo.data.file_formats.json_lines import json_line
from mtcpo.data.file_formats.registry import check_writable, is_plain_lines, read_row_file, write_row_file
from mtcpo.data.records import Segment, segment_to_json
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.decoding import Decoder
from mtcpo.translation.engines.base import Engine

WINDOW = 512
"""Sources translated between two writes: the most that a killed process loses."""

IDENTITY = ("id", "src_lang", "tgt_lang", "source")
"""Fields by which a resumed run recognizes its sources."""


def translate_segments(decoder: Decoder, segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Yield windows of segments with new candidates."""
    iterator = iter(segments)
    while window := list(itertools.islice(iterator, WINDOW)):
        yield decoder.decode(window)


def translate_texts(engine: Engine, segments: Iterable[Segment], config: TranslateConfig) -> list[str]:
    """Return one translation of each segment: its first new candidate (not one from the input)."""
    without_candidates = (replace(segment, candidates=()) for segment in segments)
    texts = []
    for window in translate_segments(Decoder(engine, config), without_candidates):
        texts += [segment.candidates[0].text for segment in window]
    return texts


def translate_to_file(
    engine: Engine, segments: Iterable[Segment], config: TranslateConfig, output: Path, overwrite: bool = False
) -> dict[str, Any]:
    """Write segments with candidates to `output`, resuming an interrupted call.

    Returns:
        segments (in the file), candidates (generated in this call), resumed_at (segments that were already done).

    Raises:
        UserError: `output` exists, its format cannot be written, or an unfinished file of other settings or sources is
            there. `overwrite` allows the first, and other settings.
    """
    refuse_existing(output, overwrite)
    check_writable(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _Unfinished.of(output)
    done = unfinished.resume(_fingerprint(engine, config), overwrite)
    # A single iterator: skipped segments must not be translated again.
    remaining = iter(segments)
    unfinished.skip_done(remaining, done)
    skip_in_progress(done)
    new, decoder = 0, Decoder(engine, config)
    with unfinished.partial.open("ab") as file:
        for window in translate_segments(decoder, remaining):
            # One write per window, so that a killed process leaves at most one incomplete window.
            file.write(b"".join(json_line(segment_to_json(segment)) for segment in window))
            file.flush()
            new += len(window)
    if not done + new:
        unfinished.discard()
        raise UserError("there is no source to translate")
    unfinished.finish(output)
    return {"segments": done + new, "candidates": decoder.counts["candidates"], "resumed_at": done}


def _fingerprint(engine: Engine, config: TranslateConfig) -> str:
    """Return a hash of everything that candidates depend on, besides the sources."""
    return hashlib.sha256(f"{engine.name}\n{config.model_dump_json()}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """The files of an unfinished output: its first windows as plain lines, and the fingerprint of its settings."""

    partial: Path
    settings: Path

    @classmethod
    def of(cls, output: Path) -> _Unfinished:
        # Compressed files and other formats cannot be truncated to whole windows; they are written from plain lines.
        plain = output if is_plain_lines(output) else output.with_name(f"{output.name}.jsonl")
        return cls(partial_path(plain), output.with_name(f".{output.name}.settings.json"))

    def resume(self, fingerprint: str, overwrite: bool) -> int:
        """Keep the complete windows of an unfinished file with the same settings; return the number of segments."""
        exists = self.partial.exists() and self.settings.exists()
        is_same = exists and json.loads(self.settings.read_text(encoding="utf-8"))["fingerprint"] == fingerprint
        if is_same:
            return _truncate_to_windows(self.partial)
        if exists and not overwrite:
            raise UserError(
                f"{self.partial}: an unfinished run with a different model or settings; repeat the command with "
                "those to finish it, or pass --overwrite to discard it"
            )
        self.partial.unlink(missing_ok=True)
        write_json(self.settings, {"fingerprint": fingerprint})
        return 0

    def skip_done(self, segments: Iterator[Segment], done: int) -> None:
        """Skip the first `done` segments, which must be those of the unfinished file."""
        for where, row in itertools.islice(read_row_file(self.partial), done):
            segment = next(segments, None)
            if segment is None or any(row[name] != getattr(segment, name) for name in IDENTITY):
                raise UserError(
                    f"{where}: the unfinished run had different sources; give the same ones to finish it, or delete "
                    f"{self.partial} to start again"
                )

    def finish(self, output: Path) -> None:
        """Rename the complete file, or convert it to the output's format."""
        if is_plain_lines(output):
            self.partial.replace(output)
        else:
            write_row_file(output, (row for _, row in read_row_file(self.partial)))
            self.partial.unlink()
        # Last: otherwise an interrupt could leave a partial file that cannot be resumed.
        self.settings.unlink()

    def discard(self) -> None:
        """Remove both files."""
        self.partial.unlink()
        self.settings.unlink()


def _truncate_to_windows(partial: Path) -> int:
    """Truncate after the last complete window; return the number of segments that remain."""
    with partial.open("rb+") as file:
        whole_lines = end = position = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break  # the process was killed during a write
            position += len(line)
            if number % WINDOW == 0:
                whole_lines, end = number, position
        file.truncate(end)
    return whole_lines
