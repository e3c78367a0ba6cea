"""Decoding: from segments to candidates, by the searches of a configuration and what is done with their outputs.

An engine only searches or samples. What needs several of its calls, or looks at the texts, is decided here.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import not_

from mtcpo.data.records import Candidate, Segment
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.base import Engine
from mtcpo.translation.mbr import open_mbr
from mtcpo.translation.mixtures import translate_by_all
from mtcpo.translation.redraw import redraw_duplicates
from mtcpo.translation.retry import retry_degenerate, widened


def searches_of(config: TranslateConfig) -> list[TranslateConfig]:
    """Return every search that a `Decoder` may ask an engine for."""
    searches = config.searches()
    for attempt in range(1, config.retry + 1):
        searches += widened(config, attempt).searches()
    return searches


def incidents(counts: Mapping[str, int]) -> dict[str, int]:
    """Return what readers of the results should know of counts: too long sources, retries and the like, if any."""
    usual = ("segments", "candidates", "resumed_at")
    return {name: number for name, number in counts.items() if number and name not in usual}


@dataclass(frozen=True, slots=True)
class Decoder:
    """An engine and how it is used. counts: what happened, for reports, by name."""

    engine: Engine
    config: TranslateConfig
    counts: Counter[str] = field(default_factory=Counter)

    def decode(self, segments: Sequence[Segment]) -> list[Segment]:
        """Return the segments with new candidates appended to those in the input.

        A source that is longer than the model takes gets one empty candidate, and is counted.
        """
        too_long = self.engine.too_long(segments, self.config)
        # Everything after this, log-probabilities included, sees only sources that fit.
        fitting = list(itertools.compress(segments, map(not_, too_long)))
        decoded = iter(self._decode_fitting(fitting) if fitting else [])
        self.counts["too_long_for_model"] += len(segments) - len(fitting)
        empty = (Candidate(self.engine.system, ""),)
        whole = []
        for segment, is_long in zip(segments, too_long, strict=True):
            whole.append(replace(segment, candidates=segment.candidates + empty) if is_long else next(decoded))
        return whole

    def _decode_fitting(self, segments: Sequence[Segment]) -> list[Segment]:
        # Before the search: a metric that cannot be loaded must not waste it.
        mbr = open_mbr(self.config, [segment.tgt_lang for segment in segments])
        made = translate_by_all(self.engine, segments, self.config)
        self.counts["candidates"] += sum(map(len, made))
        if mbr is None:
            made, drawn = redraw_duplicates(self.engine, segments, made, self.config)
            self.counts.update(drawn)
        if self.config.retry:
            made = retry_degenerate(self.engine, segments, made, self.config, self.counts)
        if mbr is not None:
            made = [[replace(winner, system=self.engine.system)] for winner in mbr.choose(segments, made)]
        decoded = []
        for segment, candidates in zip(segments, made, strict=True):
            decoded.append(replace(segment, candidates=segment.candidates + tuple(candidates)))
        return self._with_logprobs(decoded) if self.config.logprobs else decoded

    def _with_logprobs(self, segments: Sequence[Segment]) -> list[Segment]:
        """Return the segments with the log-probability of every candidate, those in the input included."""
        scored = []
        for segment, logprobs in zip(segments, self.engine.logprobs(segments, self.config.batch_size), strict=True):
            pairs = zip(segment.candidates, logprobs, strict=True)
            candidates = tuple(replace(candidate, logprob=logprob) for candidate, logprob in pairs)
            scored.append(replace(segment, candidates=candidates))
        return scored
