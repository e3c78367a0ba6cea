"""Redraws: samples that repeat another candidate of their source are drawn again, with other random numbers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from mtcpo.data.records import Candidate, Segment
from mtcpo.translation.config import SAMPLED, TranslateConfig
from mtcpo.translation.engines.base import Engine
from mtcpo.translation.mixtures import draw_of


def redraw_duplicates(
    engine: Engine, segments: Sequence[Segment], made: Sequence[Sequence[Candidate]], config: TranslateConfig
) -> tuple[list[list[Candidate]], Counter[str]]:
    """Return candidates with duplicates replaced where `config.redraw` further draws gave something new, and counts.

    made: the candidates of each segment, as of `translate_by_all`. A duplicate keeps its text if nothing new was drawn.
    counts: drawn_again (samples), still_duplicate (candidates).
    """
    searches = config.searches()
    ranges = _sampled_ranges(searches)
    sampled = frozenset(itertools.chain.from_iterable(ranges))
    candidates = [list(segment_candidates) for segment_candidates in made]
    counts: Counter[str] = Counter()
    for draw in range(1, config.redraw + 1):
        for number, positions in enumerate(ranges):
            for count, rows in _rows_by_duplicates(candidates, positions, sampled).items():
                # As many as a segment needs, not as many as its batch needs: other segments change no candidate.
                search = searches[number].model_copy(update={"num_candidates": count})
                drawn = engine.translate([segments[row] for row in rows], search, draw_of(config, number, draw))
                counts["drawn_again"] += count * len(rows)
                for row, samples in zip(rows, drawn, strict=True):
                    _replace(candidates[row], _duplicates(candidates[row], positions, sampled), samples)
    for segment_candidates in candidates:
        counts.update("still_duplicate" for _ in _duplicates(segment_candidates, sampled, sampled))
    return candidates, counts


def _sampled_ranges(searches: Sequence[TranslateConfig]) -> list[range]:
    """Return, for each search, the positions of its candidates; none for a search that does not sample."""
    ranges, start = [], 0
    for search in searches:
        end = start + search.num_candidates
        ranges.append(range(start, end) if search.sampling in SAMPLED else range(0))
        start = end
    return ranges


def _rows_by_duplicates(
    candidates: Sequence[Sequence[Candidate]], positions: Collection[int], sampled: Collection[int]
) -> dict[int, list[int]]:
    """Return number of duplicates at `positions` -> indices of the segments that have as many."""
    rows: dict[int, list[int]] = {}
    for row, segment_candidates in enumerate(candidates):
        count = len(_duplicates(segment_candidates, positions, sampled))
        if count:
            rows.setdefault(count, []).append(row)
    return rows


def _duplicates(candidates: Sequence[Candidate], positions: Collection[int], sampled: Collection[int]) -> list[int]:
    """Return those of `positions` whose text is that of an earlier sample, or of a candidate that was searched for."""
    seen = {candidate.text for position, candidate in enumerate(candidates) if position not in sampled}
    duplicates = []
    for position in sorted(sampled):
        if candidates[position].text in seen and position in positions:
            duplicates.append(position)
        seen.add(candidates[position].text)
    return duplicates


def _replace(candidates: list[Candidate], duplicates: Sequence[int], samples: Sequence[Candidate]) -> None:
    """Put samples with new texts in the place of duplicates."""
    texts = {candidate.text for candidate in candidates}
    remaining = iter(duplicates)
    for sample in samples:
        if sample.text not in texts:
            texts.add(sample.text)
            position = next(remaining)
            candidates[position] = replace(sample, system=candidates[position].system)
