"""Build triplets from a stream of segments with candidates: score, choose, deduplicate, balance, cap, report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from mtcpo.core.config import PathOrName
from mtcpo.core.errors import UserError, counted, standing
from mtcpo.core.progress import Progress
from mtcpo.core.version import __version__
from mtcpo.data.corpora import Drops
from mtcpo.data.file_formats.registry import check_writable, stem_of, write_row_file
from mtcpo.data.pair_report import PairReport, write_pair_report
from mtcpo.data.records import Segment, Triplet, segment_from_json, segment_to_json, triplet_to_json
from mtcpo.data.rows import read_segments
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.registry import candidate_kind, is_computed, metric_name
from mtcpo.metrics.score_cache import CACHE_FILE
from mtcpo.metrics.scorer import Scorer
from mtcpo.preferences.balancing import drop_surplus
from mtcpo.preferences.chooser import Chooser, SelectionConfig, add_references
from mtcpo.preferences.combining import COMBINATIONS, SetStatistics
from mtcpo.preferences.spill import HashSet, Spool, hash_of
from mtcpo.preferences.statistics import PairStatistics

PROCESS_SETTINGS = {"workers", "score_cache", "comet"}
"""Settings that change only the speed. COMET's precision changes scores, but it is in the metric's signature."""


class PrefsConfig(SelectionConfig):
    """How preference pairs are built.

    workers: processes for lexical metrics; unset: one per core. score_cache: file that keeps the scores of neural and
    user metrics; unset: `scores.sqlite3` beside the output. comet: how COMET models are run.
    """

    workers: int | None = Field(None, ge=1)
    score_cache: PathOrName | None = None
    comet: CometConfig = CometConfig()


def report_path_of(output: Path) -> Path:
    """Return the default path of the report on `output`: `prefs.en-de.jsonl.gz` -> `prefs.en-de-report.json`."""
    return output.with_name(f"{stem_of(output)}-report.json")


def build_preferences(
    segments: Iterable[Segment],
    config: PrefsConfig,
    output: Path,
    report: Path | None = None,
    scored: Path | None = None,
    drops: Drops | None = None,
) -> PairReport:
    """Score `segments`, choose pairs, write the triplets to `output` and the report beside it; return the report.

    Args:
        segments: Read once, as a stream. Memory does not grow with their texts: what must wait for the last segment
            is kept in temporary files; a triplet takes about 40 bytes of memory at most.
        config: [prefs] of a recipe.
        output: File for the triplets, in the format of its suffix.
        report: Path of the report; default: `report_path_of(output)`.
        scored: File for the scored segments; default: they are not kept.
        drops: Counts of what the reader of `segments` drops, for the report; they may grow while it reads.

    Raises:
        UserError: As in scoring, a file's format cannot be written, or no pair is left (the message says why;
            `output` is not written).
    """
    drops = Drops() if drops is None else drops
    # First: an unknown format or a missing package shows before an hour of scoring.
    for path in (output, scored):
        if path is not None:
            check_writable(path)
    chooser, statistics = Chooser(config), PairStatistics(config.seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    cache = Path(config.score_cache) if config.score_cache else output.with_name(CACHE_FILE)
    progress = Progress(f"scoring by {', '.join(config.metrics)}", unit="segments")
    with (
        progress,
        closing(Scorer(config.metrics, config.workers, cache, config.comet)) as scorer,
        standing(lambda: _standing(progress, scorer)),
    ):
        stream = progress.over(scorer.score(_prepare(segments, config, statistics)))
        if scored is not None:
            write_row_file(scored, map(segment_to_json, stream))
            # Read back from the file, so that pairs are chosen by exactly the scores that it holds.
            stream = Progress("choosing pairs", progress.done, "segments").over(read_segments(scored))
        triplets = _choose(stream, config, chooser, statistics, output.parent)
        if config.deduplicate:
            triplets = _drop_repeats(triplets, statistics)
        triplets = drop_surplus(
            triplets, config.balance_length, config.max_per_language, config.seed, statistics.dropped, output.parent
        )
        write_row_file(output, map(triplet_to_json, _count_kept(triplets, statistics, drops)))
        result = PairReport(
            **statistics.summary(drops),
            metrics=scorer.signatures(statistics.num_references()),
            **config.model_dump(mode="json", exclude=PROCESS_SETTINGS | {"metrics"}),
            notes=tuple(scorer.notes),
            mtcpo=__version__,
        )
    write_pair_report(report or report_path_of(output), result)
    return result


def _standing(scored: Progress, scorer: Scorer) -> str:
    """Return where interrupted work stands, for the last line."""
    where = scorer.cache_path
    kept = "" if where is None else f", neural scores kept in {where}"
    return f"{counted(scored.done, 'segment')} scored{kept}"


def _prepare(segments: Iterable[Segment], config: SelectionConfig, statistics: PairStatistics) -> Iterator[Segment]:
    """Yield the segments to score: without empty references, and with references as candidates if configured."""
    needs_references = any(is_computed(spec) and candidate_kind(spec).needs_references for spec in config.metrics)
    for segment in segments:
        statistics.segments += 1
        _check_names(segment)
        # A metric would take an empty text for a reference.
        references = tuple(text for text in segment.references if text.strip())
        if not segment.source.strip():
            statistics.drop_segment("empty_source")
        elif needs_references and segment.references and not references:
            # All references are empty. If there were none at all, the scorer would report the user's mistake.
            statistics.drop_segment("empty_reference")
        else:
            statistics.reference_counts.add(len(references))
            prepared = replace(segment, references=references)
            yield prepared if config.reference == "never" else add_references(prepared)


def _check_names(segment: Segment) -> None:
    seen = set()
    for candidate in segment.candidates:
        if candidate.system in seen:
            name = candidate.system
            raise UserError(
                f"segment {segment.id}: two candidates come from system {name!r}; give each its own system name, "
                f"such as {name}-1 and {name}-2"
            )
        seen.add(candidate.system)


def _choose(
    segments: Iterable[Segment], config: SelectionConfig, chooser: Chooser, statistics: PairStatistics, folder: Path
) -> Iterator[Triplet]:
    """Yield the triplets of scored segments, and count them."""
    if not COMBINATIONS[config.combine].by_set:
        for segment in segments:
            choice = chooser.choose(segment)
            statistics.add_choice(segment, choice)
            yield from choice.triplets
        return
    # The set's moments need all scores before the first choice, so the segments wait in a file.
    by_set = SetStatistics(map(metric_name, config.metrics))
    with closing(Spool(folder)) as spool:
        for segment in segments:
            by_set.add(segment)
            spool.write(segment_to_json(segment))
        rows = Progress("choosing pairs", spool.count, "segments").over(spool.rows())
        for number, row in enumerate(rows, start=1):
            segment = segment_from_json(row, f"segment {number}")
            # A language pair without any candidate has no moments, and needs none.
            moments = by_set.moments(segment.src_lang, segment.tgt_lang) if segment.candidates else None
            choice = chooser.choose(segment, moments)
            statistics.add_choice(segment, choice)
            yield from choice.triplets


def _drop_repeats(triplets: Iterable[Triplet], statistics: PairStatistics) -> Iterator[Triplet]:
    """Drop triplets whose languages, source, chosen and rejected equal those of an earlier one."""
    # 16 bytes: the chance that any two of a billion triplets share a hash is about 1e-21.
    with closing(HashSet()) as seen:
        for triplet in triplets:
            parts = triplet.src_lang, triplet.tgt_lang, triplet.source, triplet.chosen, triplet.rejected
            if seen.add(hash_of(*parts)):
                yield triplet
            else:
                statistics.dropped["duplicate"] += 1


def _count_kept(triplets: Iterable[Triplet], statistics: PairStatistics, drops: Drops) -> Iterator[Triplet]:
    """Count and yield the triplets that are written.

    Raises:
        UserError: there was none. Raised here, while the output is still a temporary file, which is then removed.
    """
    for triplet in triplets:
        statistics.add_kept(triplet)
        yield triplet
    if not statistics.margins:
        dropped = sorted((statistics.dropped + drops).items())
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped) or "no segment was read"
        raise UserError(f"no preference pair is left ({reasons}); loosen the filters or add systems")
