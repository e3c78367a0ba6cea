"""Mixtures: the candidates of several searches, put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mtcpo.data.records import Candidate, Segment
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.base import NAMES, Engine, numbered_names


def translate_by_all(
    engine: Engine, segments: Sequence[Segment], config: TranslateConfig, draw: int = 0
) -> list[list[Candidate]]:
    """Return the candidates of each segment, those of the first search first; named alike, but each differently.

    draw: as in `Engine.translate`.
    """
    searches = config.searches()
    made = []
    for number, search in enumerate(searches):
        made.append(engine.translate(segments, search, draw_of(config, number, draw)))
    if len(searches) == 1:
        return made[0]
    renamed = []
    for by_search in zip(*made, strict=True):
        renamed.append(_renamed(engine.system, by_search, searches))
    return renamed


def draw_of(config: TranslateConfig, number: int, draw: int) -> int:
    """Return the draw of one of the searches, so that two that sample never use the same random numbers."""
    return draw * len(config.searches()) + number


def _renamed(
    system: str, by_search: Sequence[Sequence[Candidate]], searches: Sequence[TranslateConfig]
) -> list[Candidate]:
    """Return the candidates of one segment, numbered by kind across searches. by_search: of each search."""
    totals: Counter[str] = Counter()
    for search in searches:
        totals[NAMES.get(search.sampling, "sample")] += search.num_candidates
    names = {}
    for search in searches:
        kind = NAMES.get(search.sampling, "sample")
        names[kind] = iter(numbered_names(system, search.sampling, totals[kind]))
    renamed = []
    for search, candidates in zip(searches, by_search, strict=True):
        kind = NAMES.get(search.sampling, "sample")
        renamed += [replace(candidate, system=next(names[kind])) for candidate in candidates]
    return renamed
