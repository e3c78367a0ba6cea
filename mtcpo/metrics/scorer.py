"""Scoring candidates with several metrics, as a stream: order kept, memory flat, several processes.

Metrics that are formulas (BLEU, chrF, TER) run here and in worker processes, which import neither torch nor
transformers; models (COMET) and functions of the user's own run in this process, a chunk of segments at a time, and
their scores are kept in a cache where there is one.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, choose
from mtcpo.core.workers import result_of, worker_pool
from mtcpo.data.records import Candidate, Segment
from mtcpo.metrics.base import CandidateMetric, Judgement, bare_judgements, judge, judged_by, processes_of
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.registry import (
    METRICS,
    candidate_kind,
    depends_on_set,
    is_computed,
    load_candidate_metric,
    metric_name,
)
from mtcpo.metrics.score_cache import CachedMetric, ScoreCache

SEGMENTS_PER_CHUNK = 64
CHUNKS_PER_WORKER = 2
CHUNKS_AHEAD = 32
"""Finished here while a worker still has an earlier one; more are not begun before that one is done."""
# Below this a second process costs more to start (0.3 s) than it saves.
SEGMENTS_FOR_WORKERS = 512
# COMET sorts what it is given by length to pad less, so its chunks are larger.
SEGMENTS_PER_MODEL_CHUNK = 512

Scores = list[list[float]]
"""[segment][candidate], of the candidates that did not have the score yet."""
Judged = list[list[Judgement]]
"""The same, with the errors that a metric finds."""


class Scorer:
    """Scores streams of segments by several metrics, and knows by which ones it did.

    A score that a candidate already has under the metric's name is kept. A name that is no metric must be such a
    score of every candidate. workers: processes for the formulas; None: one a core. cache: the file that keeps the
    scores of models; it is made when the first of them is loaded. comet: how COMET models are run.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        workers: int | None = None,
        cache: Path | None = None,
        comet: CometConfig | None = None,
    ) -> None:
        self.metrics = tuple(metrics)
        self.workers = workers or os.cpu_count() or 1
        self.notes: list[str] = []
        self._cache_path = cache
        self._comet = comet
        self._cache: ScoreCache | None = None
        self._used: dict[tuple[str, str], CandidateMetric] = {}

    def score(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """Yield the segments, in order, with the scores merged into their candidates.

        Raises:
            UserError: an unknown metric, two of one name, or a segment that lacks what a metric needs.
        """
        iterator = iter(segments)
        first = next(iterator, None)
        if first is None:
            return
        check_metrics(self.metrics, first)
        computed = [spec for spec in self.metrics if is_computed(spec)]
        formulas = [spec for spec in computed if candidate_kind(spec).is_formula]
        stream: Iterator[Segment] = chain([first], iterator)
        if formulas:
            stream = self._by_formulas(stream, formulas)
        for spec in computed:
            if spec not in formulas:
                stream = self._by_model(stream, spec)
        for segment in stream:
            _require_columns(segment, [spec for spec in self.metrics if spec not in computed])
            yield segment

    def close(self) -> None:
        """Close the cache, if one was opened."""
        if self._cache is not None:
            self._cache.close()

    def signatures(self, num_references: int) -> dict[str, str]:
        """Return each metric's signature; num_references -1: their number varies. Several tokenizers: all of them."""
        found: dict[str, dict[str, None]] = {metric_name(spec): {} for spec in self.metrics}
        for (spec, _), metric in self._used.items():
            found[metric_name(spec)][metric.signature(num_references, sentence=True)] = None
        return {name: "; ".join(signatures) or "scores found in the input" for name, signatures in found.items()}

    def _by_formulas(self, segments: Iterator[Segment], specs: Sequence[str]) -> Iterator[Segment]:
        head = list(islice(segments, SEGMENTS_FOR_WORKERS))
        chunks = _chunks(chain(head, segments), SEGMENTS_PER_CHUNK)
        if self.workers == 1 or len(head) < SEGMENTS_FOR_WORKERS:
            for chunk in chunks:
                yield from self._merge(chunk, specs, map(bare_judgements, _score_chunk(chunk, specs)))
            return
        waiting: deque[tuple[list[Segment], Future[list[Scores]]]] = deque()
        # This process is one of the workers: it does not wait for those that still start.
        others = self.workers - 1
        with worker_pool(others) as submit:
            for chunk in chunks:
                if sum(not future.done() for _, future in waiting) < others * CHUNKS_PER_WORKER:
                    waiting.append((chunk, submit(_score_chunk, chunk, specs)))
                else:
                    waiting.append((chunk, _finished(_score_chunk(chunk, specs))))
                while waiting and (waiting[0][1].done() or len(waiting) >= CHUNKS_AHEAD + others * CHUNKS_PER_WORKER):
                    oldest, future = waiting.popleft()
                    yield from self._merge(oldest, specs, map(bare_judgements, result_of(future)))
            for chunk, future in waiting:
                yield from self._merge(chunk, specs, map(bare_judgements, result_of(future)))

    def _by_model(self, segments: Iterator[Segment], spec: str) -> Iterator[Segment]:
        for chunk in self._model_chunks(segments, spec):
            todo = [_unscored(segment, spec) for segment in chunk]
            judged: Judged = [[] for _ in chunk]
            if any(segment.candidates for segment in todo):
                judged = judge(self._loaded(spec, chunk[0].tgt_lang), todo)
            yield from self._merge(chunk, [spec], [judged])

    def _model_chunks(self, segments: Iterator[Segment], spec: str) -> Iterator[list[Segment]]:
        """Yield the segments in chunks: as many more at a time as the metric's processes score."""
        size = SEGMENTS_PER_MODEL_CHUNK
        while chunk := list(islice(segments, size)):
            yield chunk
            if (metric := self._used.get((spec, ""))) is not None:
                size = SEGMENTS_PER_MODEL_CHUNK * processes_of(metric)

    def _merge(self, chunk: Sequence[Segment], specs: Sequence[str], judged: Iterable[Judged]) -> Iterator[Segment]:
        by_spec = list(zip(specs, judged, strict=True))
        for index, segment in enumerate(chunk):
            candidates: Sequence[Candidate] = segment.candidates
            for spec, of_spec in by_spec:
                if of_spec[index]:
                    self._loaded(spec, segment.tgt_lang)
                candidates = _with_scores(segment.id, candidates, spec, of_spec[index])
            yield replace(segment, candidates=tuple(candidates))

    def _loaded(self, spec: str, tgt_lang: str) -> CandidateMetric:
        """Return the metric, loaded once; only formulas differ by target language."""
        key = spec, tgt_lang if candidate_kind(spec).is_formula else ""
        if key not in self._used:
            self._used[key] = load_candidate_metric(spec, tgt_lang, self._cached, self._comet)
        return self._used[key]

    def _cached(self, metric: CandidateMetric, depends_on_references: bool) -> CandidateMetric:
        if self._cache_path is None:
            return metric
        if self._cache is None:
            self._cache = ScoreCache(self._cache_path)
            self.notes += [self._cache.note] if self._cache.note else []
        return CachedMetric(metric, self._cache, depends_on_references)


def score_segments(
    segments: Iterable[Segment], metrics: Sequence[str], workers: int | None = None
) -> Iterator[Segment]:
    """Yield the segments with the scores of `metrics` merged into their candidates; see `Scorer`."""
    return Scorer(metrics, workers).score(segments)


def check_metrics(metrics: Sequence[str], first: Segment | None = None) -> None:
    """Check the names of metrics before any work; `first` has the scores that may be used as they are.

    Raises:
        UserError: neither a metric nor such a score, or two metrics of one name.
    """
    names = [metric_name(spec) for spec in metrics]
    present = {name for candidate in first.candidates for name in candidate.scores} if first else set()
    for spec, name in zip(metrics, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"metric {name!r} is asked for twice; scores are kept under the name before the colon")
        if is_computed(spec):
            candidate_kind(spec)
        elif spec not in present:
            raise choose("metric", spec, METRICS.keys() | present)


def _require_columns(segment: Segment, names: Sequence[str]) -> None:
    """Raise UserError unless every candidate has a finite number under each name."""
    for candidate in segment.candidates:
        for name in names:
            if name not in candidate.scores:
                raise UserError(f"segment {segment.id}: {candidate.system} has no score {name!r}, and it is no metric")
            _require_finite(segment.id, candidate, name)


def _require_finite(segment_id: str, candidate: Candidate, name: str) -> None:
    score = candidate.scores[name]
    if not math.isfinite(score):
        raise UserError(
            f"segment {segment_id}: {name} of {candidate.system} is {score}; mend it, or leave that one out"
        )


def _chunks(segments: Iterable[Segment], size: int) -> Iterator[list[Segment]]:
    iterator = iter(segments)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _finished(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


@lru_cache(maxsize=64)
def _formula(spec: str, tgt_lang: str) -> CandidateMetric:
    return load_candidate_metric(spec, tgt_lang, lambda metric, _: metric)


def _score_chunk(chunk: Sequence[Segment], specs: Sequence[str]) -> list[Scores]:
    """Score the candidates of a chunk that lack the score, by each formula. Runs in a worker."""
    return [
        [_formula(spec, segment.tgt_lang).score_candidates([_unscored(segment, spec)])[0] for segment in chunk]
        for spec in specs
    ]


def _unscored(segment: Segment, spec: str) -> Segment:
    """Return the segment with only those candidates that the metric must score."""
    missing = tuple(c for c in segment.candidates if metric_name(spec) not in c.scores)
    # Where the others matter, a new candidate changes the scores of all.
    return segment if missing and depends_on_set(spec) else replace(segment, candidates=missing)


def _with_scores(
    segment_id: str, candidates: Sequence[Candidate], spec: str, judged: Sequence[Judgement]
) -> tuple[Candidate, ...]:
    """Return the candidates with their new scores and errors: all of them, or those that had none."""
    name, new, every = metric_name(spec), iter(judged), len(judged) == len(candidates)
    scored = tuple(c if name in c.scores and not every else judged_by(name, c, next(new)) for c in candidates)
    for candidate in scored:
        _require_finite(segment_id, candidate, name)
    return scored
