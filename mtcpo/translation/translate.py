"""`mtcpo translate`: write candidates for every source, in input order, to a file; resumable.

Sources are processed in windows. A window is translated in batches of similar length and written as a whole: memory
does not grow with the input, and a resumed run writes the same as an uninterrupted one. Several processes share the
windows of an input.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, standing
from mtcpo.core.files import refuse_existing
from mtcpo.core.progress import under_way
from mtcpo.data.file_formats.registry import check_writable
from mtcpo.data.records import Segment
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.decoding import Decoder
from mtcpo.translation.engines.base import Engine
from mtcpo.translation.shards import ShardRecord, SourceHash
from mtcpo.translation.windows import WHOLE, Part, Windows

WINDOW = 256
"""Sources translated between two writes: the most that a killed process loses. Several processes divide an input by
windows, which small ones do evenly; large ones have less padding (for captions, batches of 32 have 8 % of positions
with windows of 512, 16 % with 256, 29 % with 128)."""


def translate_segments(decoder: Decoder, segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Yield windows of segments with new candidates."""
    for window in _split(segments):
        yield decoder.decode(window)


def _split(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    iterator = iter(segments)
    while window := list(itertools.islice(iterator, WINDOW)):
        yield window


def translate_texts(
    engine: Engine, segments: Iterable[Segment], config: TranslateConfig, counts: Counter[str] | None = None
) -> list[str]:
    """Return one translation of each segment: its first new candidate (not one from the input).

    counts: those of `Decoder` are added to it.
    """
    decoder = Decoder(engine, config, Counter() if counts is None else counts)
    without_candidates = (replace(segment, candidates=()) for segment in segments)
    texts = []
    for window in translate_segments(decoder, without_candidates):
        texts += [segment.candidates[0].text for segment in window]
    return texts


def translate_to_file(
    engine: Engine,
    segments: Iterable[Segment],
    config: TranslateConfig,
    output: Path,
    overwrite: bool = False,
    part: Part = WHOLE,
) -> dict[str, Any]:
    """Write segments with candidates to `output`, resuming an interrupted call.

    part: which of the windows to translate; the first of several processes waits for the others and writes `output`.

    Returns:
        segments (in the file), resumed_at (segments that were already done), and the counts of `Decoder` for the whole
        file, such as candidates. {} from all processes but the first.

    Raises:
        UserError: `output` exists, its format cannot be written, or an unfinished run of other settings or sources is
            there; `overwrite` allows the first, and other settings. Another process ended early.
    """
    if part.process.rank == 0:
        refuse_existing(output, overwrite)
    check_writable(output)
    windows, settings = Windows(output, part), _settings(engine, config, part)
    with windows.opened(settings, overwrite) as has_work:
        if not has_work:
            return {}
        done_before, sources = windows.numbers(), SourceHash()
        count = len(segments) if isinstance(segments, Sized) else under_way().total
        with standing(lambda: _standing(windows, count)):
            sizes = _translate_windows(Decoder(engine, config), sources.passing(segments), windows)
        if part.process.rank > 0:
            return {}
        if not sizes:
            windows.remove()
            raise UserError("there is no source to translate")
        with windows.wait_for_others(len(sizes)):
            total = windows.total(len(sizes))
            if part.shards > 1:
                # Before the output, which would otherwise be there without its record after a kill.
                _shard_record(settings, part, sources, total).write(output)
            windows.join(len(sizes))
            windows.remove()
    return dict(total) | {"resumed_at": sum(sizes[number] for number in done_before)}


def _standing(windows: Windows, count: int | None) -> str:
    """Return where interrupted work stands, for the last line. count: of all sources, if it is known."""
    done = f"{windows.segments():,}"
    return f"{done} of {count:,} sources translated" if count is not None else f"{done} sources translated"


def _settings(engine: Engine, config: TranslateConfig, part: Part) -> dict[str, Any]:
    """Return everything that the windows of an output depend on, besides the sources."""
    fingerprint = hashlib.sha256(f"{engine.name}\n{config.model_dump_json()}".encode()).hexdigest()
    return {"fingerprint": fingerprint, "window": WINDOW, "shard": part.shard, "shards": part.shards}


def _shard_record(
    settings: Mapping[str, Any], part: Part, sources: SourceHash, total: Mapping[str, int]
) -> ShardRecord:
    return ShardRecord(
        shard=part.shard + 1,
        shards=part.shards,
        window=settings["window"],
        fingerprint=settings["fingerprint"],
        sources=sources.count,
        sources_sha256=sources.hexdigest(),
        counts=dict(total),
    )


def _translate_windows(decoder: Decoder, segments: Iterable[Segment], windows: Windows) -> list[int]:
    """Translate this process's unfinished windows; return the number of segments of every window of the input."""
    sizes = []
    done_before = windows.numbers()
    for number, window in enumerate(_split(segments)):
        sizes.append(len(window))
        if not windows.part.is_in_shard(number):
            under_way().skip(len(window))
            continue
        if not windows.part.is_mine(number):
            # The other processes are as fast as this one.
            under_way().update(len(window))
            continue
        if number in done_before:
            windows.check(number, window)
            under_way().skip(len(window))
            continue
        counted_before = decoder.counts.copy()
        windows.write(number, decoder.decode(window), decoder.counts - counted_before)
    return sizes
