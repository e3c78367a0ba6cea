"""`mtcpo translate`: candidates for every source, written in input order, resumable.

Sources are taken in windows. A window is translated in batches of like length and written as a whole, so memory does
not grow with the input, and a run that goes on after an interrupt writes what an uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from mtcpo.core.errors import UserError
from mtcpo.core.files import partial_path, refuse_existing, write_json
from mtcpo.core.json_lines import json_line
from mtcpo.data.records import Candidate, Segment, segment_to_json
from mtcpo.data.row_files import read_row_file, write_row_file
from mtcpo.translation.config import TranslateConfig

WINDOW = 512
"""Sources translated between two writes: what a kill can lose."""

IDENTITY = ("id", "src_lang", "tgt_lang", "source")
"""The fields by which an interrupted run knows its sources again."""


class Engine(Protocol):
    """What turns sources into translations; `engine.generate` is one for models of the transformers library."""

    @property
    def name(self) -> str:
        """What identifies its outputs: engine, model, system."""
        ...

    def translate(self, segments: Sequence[Segment], config: TranslateConfig, seed: int) -> list[list[Candidate]]:
        """Return the candidates of each segment, best first where the search ranks them."""
        ...

    def logprobs(self, segments: Sequence[Segment], batch_size: int) -> list[list[float]]:
        """Return the log-probability of each candidate of each segment: nats, summed over tokens, end included."""
        ...


def translate_segments(
    engine: Engine, segments: Iterable[Segment], config: TranslateConfig, first_window: int = 0
) -> Iterator[list[Segment]]:
    """Yield windows of segments with the engine's candidates added to those that they have.

    `first_window` numbers the first window given, so that each has its own seed wherever a run starts.
    """
    iterator = iter(segments)
    for number in itertools.count(first_window):
        window = list(itertools.islice(iterator, WINDOW))
        if not window:
            return
        found = engine.translate(window, config, seed=config.seed * 1_000_003 + number)
        translated = [
            replace(segment, candidates=segment.candidates + tuple(new))
            for segment, new in zip(window, found, strict=True)
        ]
        yield _with_logprobs(engine, translated, config) if config.logprobs else translated


def _with_logprobs(engine: Engine, segments: Sequence[Segment], config: TranslateConfig) -> list[Segment]:
    found = engine.logprobs(segments, config.batch_size)
    return [
        replace(
            segment, candidates=tuple(replace(c, logprob=x) for c, x in zip(segment.candidates, values, strict=True))
        )
        for segment, values in zip(segments, found, strict=True)
    ]


def translate_to_file(
    engine: Engine, segments: Iterable[Segment], config: TranslateConfig, output: Path, overwrite: bool = False
) -> dict[str, Any]:
    """Write segments with candidates to `output`, going on where an interrupted call left off.

    Returns:
        segments, candidates (made in this call), and resumed_at (segments that were there already).

    Raises:
        UserError: `output` exists, or an unfinished file with other settings or sources lies there; `overwrite`
            allows both.
    """
    refuse_existing(output, overwrite)
    # Compressed and Parquet files cannot be cut back to whole windows: they are made of plain lines at the end.
    plain = output.suffix not in (".gz", ".zst", ".parquet")
    partial = partial_path(output if plain else output.with_name(f"{output.name}.jsonl"))
    settings = output.with_name(f".{output.name}.settings.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    done = _resume(partial, settings, _fingerprint(engine, config), overwrite)
    counts = Counter(segments=done)
    remaining = iter(segments)
    _pass_over(remaining, partial, done)
    with partial.open("ab") as file:
        for window in translate_segments(engine, remaining, config, first_window=done // WINDOW):
            file.write(b"".join(json_line(segment_to_json(segment)) for segment in window))
            file.flush()
            counts["segments"] += len(window)
            counts["candidates"] += len(window) * config.num_candidates
    if not counts["segments"]:
        partial.unlink()
        settings.unlink()
        raise UserError("there is no source to translate")
    if plain:
        partial.replace(output)
    else:
        write_row_file(output, (row for _, row in read_row_file(partial)))
        partial.unlink()
    settings.unlink()
    return dict(counts) | {"resumed_at": done}


def _fingerprint(engine: Engine, config: TranslateConfig) -> str:
    return hashlib.sha256(f"{engine.name}\n{config.model_dump_json()}".encode()).hexdigest()


def _pass_over(segments: Iterator[Segment], partial: Path, done: int) -> None:
    """Take the first `done` segments, which must be those that the unfinished file has."""
    for where, row in itertools.islice(read_row_file(partial), done):
        segment = next(segments, None)
        if segment is None or any(row[name] != getattr(segment, name) for name in IDENTITY):
            raise UserError(
                f"{where}: the unfinished run had other sources; give those again to finish it, or delete {partial} "
                "to start anew"
            )


def _resume(partial: Path, settings: Path, fingerprint: str, overwrite: bool) -> int:
    """Cut the unfinished file to its whole windows; return how many segments it keeps."""
    unfinished = partial.exists() and settings.exists()
    same = unfinished and json.loads(settings.read_text(encoding="utf-8"))["fingerprint"] == fingerprint
    if unfinished and not same and not overwrite:
        raise UserError(
            f"{partial}: an unfinished run with another model or settings; repeat those to finish it, "
            "or pass --overwrite to discard it"
        )
    if not same:
        partial.unlink(missing_ok=True)
        write_json(settings, {"fingerprint": fingerprint})
        return 0
    with partial.open("rb+") as file:
        lines = whole = position = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            lines, position = lines + 1, position + len(line)
            if lines % WINDOW == 0:
                whole = position
        file.truncate(whole)
    return lines // WINDOW * WINDOW


def translate_texts(engine: Engine, segments: Iterable[Segment], config: TranslateConfig) -> list[str]:
    """Return one translation of each segment: the first candidate; candidates that segments bring do not count."""
    bare = (replace(segment, candidates=()) for segment in segments)
    windows = translate_segments(engine, bare, config)
    return [segment.candidates[0].text for window in windows for segment in window]
