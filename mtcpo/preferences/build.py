"""From segments with candidates to triplets, as a stream: scores, choice, balance, and the report on all of it."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from pydantic import Field

from mtcpo.core.config import PathOrName
from mtcpo.core.errors import UserError
from mtcpo.core.files import json_line, write_json, write_json_lines
from mtcpo.core.version import __version__
from mtcpo.data.corpora import Drops
from mtcpo.data.records import Segment, Triplet, segment_from_json, segment_to_json, triplet_from_json, triplet_to_json
from mtcpo.data.rows import read_segments
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.registry import candidate_kind, is_computed, metric_name
from mtcpo.metrics.score_cache import CACHE_FILE
from mtcpo.metrics.scorer import Scorer
from mtcpo.preferences.combining import COMBINATIONS, Centre, SetStatistics
from mtcpo.preferences.selection import Chooser, SelectionConfig, add_references, length_log_ratio, unbalanced
from mtcpo.preferences.spill import Column, temporary_database
from mtcpo.preferences.statistics import PairStatistics

PROCESS_SETTINGS = {"workers", "score_cache", "comet"}
"""Settings that change how fast pairs are built, and not which: a precision is in its metric's signature."""


class PrefsConfig(SelectionConfig):
    """How preference pairs are built.

    workers: processes for BLEU, chrF and TER; unset: one a core. score_cache: file that keeps the scores of models;
    unset: `scores.sqlite3` beside the output. comet: how COMET models are run.
    """

    workers: int | None = Field(None, ge=1)
    score_cache: PathOrName | None = None
    comet: CometConfig = CometConfig()


def report_path_of(output: Path) -> Path:
    """Return where the report on `output` goes by default: `prefs.en-de.jsonl.gz` -> `prefs.en-de-report.json`."""
    name = output.name
    for suffix in (".gz", ".zst", ".jsonl", ".json", ".parquet"):
        name = name.removesuffix(suffix)
    return output.with_name(f"{name}-report.json")


def build_preferences(
    segments: Iterable[Segment],
    config: PrefsConfig,
    output: Path,
    report: Path | None = None,
    scored: Path | None = None,
    drops: Drops | None = None,
) -> dict[str, Any]:
    """Score `segments`, choose their pairs, write the triplets to `output` and the report beside it; return the report.

    scored: where to keep the scored segments. drops: what the reader of `segments` drops, counted in the report; it may
    still grow while they are read. Memory does not grow with them: what must wait for the last lies in temporary files.

    Raises:
        UserError: what scoring raises, or no pair is left (the message says why; `output` is not written).
    """
    drops = Drops() if drops is None else drops
    statistics, chooser = PairStatistics(config.seed), Chooser(config)
    output.parent.mkdir(parents=True, exist_ok=True)
    cache = Path(config.score_cache) if config.score_cache else output.with_name(CACHE_FILE)
    with closing(statistics), closing(Scorer(config.metrics, config.workers, cache, config.comet)) as scorer:
        stream = scorer.score(_prepared(segments, config, statistics))
        if scored is not None:
            write_json_lines(scored, map(segment_to_json, stream))
            stream = read_segments(scored)
        triplets = _without_repeats(_chosen(stream, config, chooser, statistics, output.parent), config, statistics)
        if config.balance_length:
            triplets = _balanced(triplets, statistics, output.parent)
        if config.max_per_language is not None:
            triplets = _capped(triplets, config.max_per_language, config.seed, statistics, output.parent)
        write_json_lines(output, map(triplet_to_json, _kept(triplets, statistics, drops)))
        summary = {
            **statistics.figures(drops),
            "metrics": scorer.signatures(statistics.num_references()),
            **config.model_dump(mode="json", exclude=PROCESS_SETTINGS | {"metrics"}),
            "notes": scorer.notes,
            "mtcpo": __version__,
        }
    write_json(report or report_path_of(output), summary)
    return summary


def _prepared(segments: Iterable[Segment], config: SelectionConfig, statistics: PairStatistics) -> Iterator[Segment]:
    """Yield the segments as they are scored: empty references gone, references added as candidates where asked."""
    needs_references = any(is_computed(spec) and candidate_kind(spec).needs_references for spec in config.metrics)
    for segment in segments:
        statistics.segments += 1
        _check_names(segment)
        references = tuple(text for text in segment.references if text.strip())
        if not segment.source.strip():
            statistics.drop_segment("empty_source")
        elif needs_references and segment.references and not references:
            statistics.drop_segment("empty_reference")
        else:
            statistics.reference_counts.add(len(references))
            prepared = replace(segment, references=references)
            yield prepared if config.reference == "never" else add_references(prepared)


def _check_names(segment: Segment) -> None:
    names = [candidate.system for candidate in segment.candidates]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"segment {segment.id}: two candidates are of system {twice!r}; give each a name of its own, "
            f"such as {twice}-1 and {twice}-2"
        )


def _chosen(
    segments: Iterable[Segment], config: SelectionConfig, chooser: Chooser, statistics: PairStatistics, folder: Path
) -> Iterator[Triplet]:
    """Yield the triplets of scored segments; a combination by set needs all scores before the first choice."""
    if not COMBINATIONS[config.combine].by_set:
        for segment in segments:
            yield from _counted(segment, chooser, None, statistics)
        return
    by_set = SetStatistics(metric_name(spec) for spec in config.metrics)
    with tempfile.TemporaryFile(dir=folder) as spool:
        for segment in segments:
            by_set.add(segment)
            spool.write(json_line(segment_to_json(segment)))
        for where, row in _read_again(spool):
            segment = segment_from_json(row, where)
            centres = by_set.centres(segment.src_lang, segment.tgt_lang) if segment.candidates else None
            yield from _counted(segment, chooser, centres, statistics)


def _read_again(spool: IO[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows that were written to a temporary file, from its start."""
    spool.seek(0)
    for number, line in enumerate(spool, start=1):
        yield f"row {number}", json.loads(line)


def _counted(
    segment: Segment, chooser: Chooser, centres: Mapping[str, Centre] | None, statistics: PairStatistics
) -> Iterator[Triplet]:
    choice = chooser.choose(segment, centres)
    statistics.add_choice(segment, choice)
    yield from choice.triplets


def _without_repeats(
    triplets: Iterable[Triplet], config: SelectionConfig, statistics: PairStatistics
) -> Iterator[Triplet]:
    """Drop triplets whose languages, source, chosen and rejected were there before."""
    if not config.deduplicate:
        yield from triplets
        return
    with closing(temporary_database("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")) as seen:
        for triplet in triplets:
            parts = (triplet.src_lang, triplet.tgt_lang, triplet.source, triplet.chosen, triplet.rejected)
            if seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (_hash(*parts),)).rowcount:
                yield triplet
            else:
                statistics.dropped["duplicate"] += 1


def _hash(*parts: str) -> bytes:
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def _balanced(triplets: Iterable[Triplet], statistics: PairStatistics, folder: Path) -> Iterator[Triplet]:
    """Drop triplets until chosen and rejected are equally long on average: two passes, the first to a file."""
    with (
        tempfile.TemporaryFile(dir=folder) as spool,
        closing(Column()) as ratios,
        closing(temporary_database("CREATE TABLE dropped (place INTEGER PRIMARY KEY)")) as database,
    ):
        for triplet in triplets:
            ratios.append(length_log_ratio(triplet))
            spool.write(json_line(triplet_to_json(triplet)))
        database.executemany("INSERT INTO dropped VALUES (?)", ((place,) for place in unbalanced(ratios)))
        places = (place for (place,) in database.execute("SELECT place FROM dropped ORDER BY place"))
        dropped = next(places, None)
        for place, (where, row) in enumerate(_read_again(spool)):
            if place == dropped:
                statistics.dropped["length_balance"] += 1
                dropped = next(places, None)
            else:
                yield triplet_from_json(row, where)


def _capped(
    triplets: Iterable[Triplet], limit: int, seed: int, statistics: PairStatistics, folder: Path
) -> Iterator[Triplet]:
    """Keep `limit` triplets of each language pair, an even draw: those with the lowest hashes of seed and texts.

    A triplet's lot depends on nothing but itself and the seed, so that more data changes as few others as can be.
    """
    lowest: dict[tuple[str, str], list[int]] = defaultdict(list)
    with tempfile.TemporaryFile(dir=folder) as spool:
        for triplet in triplets:
            _keep_lowest(lowest[triplet.src_lang, triplet.tgt_lang], _lot(triplet, seed), limit)
            spool.write(json_line(triplet_to_json(triplet)))
        for where, row in _read_again(spool):
            triplet = triplet_from_json(row, where)
            if _lot(triplet, seed) <= -lowest[triplet.src_lang, triplet.tgt_lang][0]:
                yield triplet
            else:
                statistics.dropped["language_cap"] += 1


def _lot(triplet: Triplet, seed: int) -> int:
    parts = (str(seed), triplet.id, triplet.source, triplet.chosen, triplet.rejected)
    return int.from_bytes(_hash(*parts), "big")


def _keep_lowest(heap: list[int], number: int, limit: int) -> None:
    """Keep the `limit` lowest numbers, negated: the highest of them is first."""
    if len(heap) < limit:
        heapq.heappush(heap, -number)
    else:
        heapq.heappushpop(heap, -number)


def _kept(triplets: Iterable[Triplet], statistics: PairStatistics, drops: Drops) -> Iterator[Triplet]:
    for triplet in triplets:
        statistics.add_kept(triplet)
        yield triplet
    if not statistics.margins:
        dropped = sorted((statistics.dropped + drops).items())
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped) or "no segment was read"
        raise UserError(f"no preference pair is left ({reasons}); loosen the filters or add systems")
