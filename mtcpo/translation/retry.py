"""Retry: translate again what is degenerate, with a wider search.

A translation is degenerate if it is empty, a source copy, off-target, repetitive, or far out of the length ratio of the
others. Attempt n samples at a temperature 1 + n/4 times as high, or searches with 1 + n times as many beams (diverse
beam search too, whose first group would come out the same). What comes out replaces it if it is not degenerate.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from mtcpo.data.language_id import are_wrong, why_unchecked
from mtcpo.data.records import Candidate, Segment
from mtcpo.data.text_checks import adds_loop, is_in_other_script
from mtcpo.translation.config import SAMPLED, SearchConfig, TranslateConfig
from mtcpo.translation.engines.base import Engine
from mtcpo.translation.mixtures import translate_by_all

Search = TypeVar("Search", bound=SearchConfig)

Slot = tuple[int, int]
"""(index of the segment, number of the candidate)."""

RETRY_DRAW = 1000
"""The draw of the first attempt is one more: above those that replace duplicates."""

MIN_LENGTHS = 16
"""Without so many translations of a language pair, their length ratio is not known."""

MAX_DEVIATIONS = 4.0
"""Farther from the median, a logarithm of a length ratio is an outlier."""

DEVIATION_OF_MEDIAN = 1.4826
"""Standard deviation of a normal distribution / median of its absolute deviations from the median."""

MIN_DISTANCE = math.log(2)
"""A translation less than twice as long, or as short, as the others is never an outlier."""


def retry_degenerate(
    engine: Engine,
    segments: Sequence[Segment],
    made: Sequence[Sequence[Candidate]],
    config: TranslateConfig,
    counts: Counter[str],
) -> list[list[Candidate]]:
    """Return the candidates `made` of a window's segments, with degenerate ones replaced where a retry mended them.

    Counts: degenerate candidates, each reason for it (degenerate_...), mended, still_degenerate; language_unchecked:
    translations to a language that the language identifier does not know, or all if it is not installed.
    """
    checker = DegeneracyChecker(segments, made)
    kept = list(map(list, made))
    degenerate = checker.reasons(_texts(kept))
    counts["language_unchecked"] += checker.unchecked
    counts["degenerate"] += len(degenerate)
    counts.update(f"degenerate_{reason}" for reason in degenerate.values())
    still_degenerate = set(degenerate)
    for attempt in range(1, config.retry + 1):
        still_degenerate -= _retry(engine, segments, kept, still_degenerate, config, attempt, checker)
    counts["still_degenerate"] += len(still_degenerate)
    counts["mended"] += len(degenerate) - len(still_degenerate)
    return kept


def _retry(
    engine: Engine,
    segments: Sequence[Segment],
    kept: list[list[Candidate]],
    degenerate: set[Slot],
    config: TranslateConfig,
    attempt: int,
    checker: DegeneracyChecker,
) -> set[Slot]:
    """Translate the segments with degenerate candidates again; replace in `kept` what is mended, and return that."""
    indices = sorted({index for index, _ in degenerate})
    again = [segments[index] for index in indices]
    made = translate_by_all(engine, again, widened(config, attempt), RETRY_DRAW + attempt) if again else []
    new_texts = {}
    # Only candidates that are to be replaced: identifying the language of the others would be wasted.
    for index, candidates in zip(indices, made, strict=True):
        for number, candidate in enumerate(candidates):
            if (index, number) in degenerate:
                new_texts[index, number] = candidate.text
    mended = degenerate - checker.reasons(new_texts).keys()
    for index, number in mended:
        # The name stays: it says which candidate of the source this is.
        kept[index][number] = replace(kept[index][number], text=new_texts[index, number])
    return mended


def widened(config: TranslateConfig, attempt: int) -> TranslateConfig:
    """Return the settings of a retry, with every search wider. attempt: from 1."""
    if not config.mix:
        return _wider(config, attempt)
    return config.model_copy(update={"mix": tuple(_wider(search, attempt) for search in config.mix)})


def _wider(search: Search, attempt: int) -> Search:
    if search.sampling in SAMPLED:
        return search.model_copy(update={"temperature": search.temperature * (1 + attempt / 4)})
    beams = max(search.num_beams, search.num_candidates) * (1 + attempt)
    return search.model_copy(update={"sampling": "beam", "num_beams": beams})


def _texts(made: Sequence[Sequence[Candidate]]) -> dict[Slot, str]:
    texts = {}
    for index, candidates in enumerate(made):
        for number, candidate in enumerate(candidates):
            texts[index, number] = candidate.text
    return texts


class DegeneracyChecker:
    """Finds degenerate translations of the segments of a window.

    Outliers of length: |r - m| > max(MAX_DEVIATIONS * s, MIN_DISTANCE), where r = log(characters of the translation /
    characters of the source), m is the median of r over the first translations of the window in the same language pair,
    and s = DEVIATION_OF_MEDIAN * median of |r - m|. Neither other windows nor retries change m and s, so that outputs
    depend neither on where a run was resumed, nor on how many processes share it.
    """

    def __init__(self, segments: Sequence[Segment], made: Sequence[Sequence[Candidate]]) -> None:
        """Measure the lengths of the first translations. made: those of each segment."""
        self._segments = segments
        self.unchecked = 0
        """Translations in a language that cannot be identified."""
        ratios: dict[tuple[str, str], list[float]] = {}
        for (index, _), text in _texts(made).items():
            if text and segments[index].source:
                ratios.setdefault(self._pair(index), []).append(self._log_ratio(index, text))
            self.unchecked += bool(why_unchecked(segments[index].tgt_lang))
        self._usual = {pair: _center_and_limit(of_pair) for pair, of_pair in ratios.items()}

    def reasons(self, texts: Mapping[Slot, str]) -> dict[Slot, str]:
        """Return why translations are degenerate: the first reason that applies; those that are not are left out."""
        reasons = {}
        by_language: dict[str, list[Slot]] = {}
        for slot, text in texts.items():
            # First what is cheap: language identification takes longer than all the rest.
            reason = self._reason(slot[0], text)
            if reason:
                reasons[slot] = reason
            else:
                by_language.setdefault(self._segments[slot[0]].tgt_lang, []).append(slot)
        # In one call for each language, because the identifier works in parallel.
        for tgt_lang, slots in by_language.items():
            if not why_unchecked(tgt_lang):
                wrong = are_wrong(list(map(texts.__getitem__, slots)), tgt_lang)
                reasons |= dict.fromkeys(itertools.compress(slots, wrong), "wrong_language")
        return reasons

    def _reason(self, index: int, text: str) -> str:
        """Return the reason that needs no language identification, or ""."""
        segment = self._segments[index]
        if not text.strip():
            return "empty_text"
        if text.strip() == segment.source.strip():
            return "copy_of_source"
        if adds_loop(text, segment.source):
            return "repetition"
        if is_in_other_script(text, segment.tgt_lang):
            return "wrong_script"
        return "length" if self._is_outlier(index, text) else ""

    def _is_outlier(self, index: int, text: str) -> bool:
        center, limit = self._usual.get(self._pair(index), (0.0, math.inf))
        return bool(self._segments[index].source) and abs(self._log_ratio(index, text) - center) > limit

    def _log_ratio(self, index: int, text: str) -> float:
        return math.log(len(text) / len(self._segments[index].source))

    def _pair(self, index: int) -> tuple[str, str]:
        segment = self._segments[index]
        return segment.src_lang, segment.tgt_lang


def _center_and_limit(log_ratios: Sequence[float]) -> tuple[float, float]:
    """Return the median of logarithms of length ratios, and how far from it an outlier begins."""
    center = statistics.median(log_ratios)
    # Medians, not means: degenerate translations, which are to be found, must not decide what is usual.
    if len(log_ratios) < MIN_LENGTHS:
        return center, math.inf
    distances = (abs(log_ratio - center) for log_ratio in log_ratios)
    deviation = DEVIATION_OF_MEDIAN * statistics.median(distances)
    return center, max(MAX_DEVIATIONS * deviation, MIN_DISTANCE)
