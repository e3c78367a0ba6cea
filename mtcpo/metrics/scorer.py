"""Score a stream of candidates by several metrics: in order, in constant memory, with several processes.

Lexical metrics run here and in worker processes, which import neither torch nor transformers. Neural metrics run in
this process, a chunk of segments at a time, and their scores are kept in a cache.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path

from mtcpo.core.errors import UserError, choose
from mtcpo.core.progress import detail
from mtcpo.core.workers import map_in_order
from mtcpo.data.records import Candidate, Segment
from mtcpo.metrics.base import CandidateMetric, Metric, ScoreWithSpans, with_score, without_spans
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
# With fewer segments, a second process costs more to start (0.3 s) than it saves.
SEGMENTS_FOR_WORKERS = 512
# A neural metric sorts its texts by length to pad less, so its chunks are larger.
SEGMENTS_PER_MODEL_CHUNK = 512

Scores = list[list[ScoreWithSpans]]
"""[segment][candidate], for candidates that did not have the score yet."""


class Scorer:
    """Scores streams of segments by several metrics, and knows the signatures of the metrics used.

    If a candidate already has a score under a metric's name, it is kept. A name that is not a metric must be a score
    that every candidate has.

    Args:
        metrics: Specs.
        workers: Processes for lexical metrics; None: one per core.
        cache: The score cache, opened when the first neural metric is loaded; None: no cache.
        comet: How COMET models are run; None: the defaults of CometConfig.
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
        self._loaded: dict[tuple[str, str], CandidateMetric] = {}

    def score(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """Yield the segments, in order, with the scores merged into their candidates.

        Raises:
            UserError: Unknown metric, two with the same name, or a segment that lacks what a metric needs.
        """
        iterator = iter(segments)
        first = next(iterator, None)
        if first is None:
            return
        check_metrics(self.metrics, first)
        columns = [spec for spec in self.metrics if not is_computed(spec)]
        computed = [spec for spec in self.metrics if is_computed(spec)]
        lexical = [spec for spec in computed if candidate_kind(spec).is_lexical]
        stream: Iterator[Segment] = chain([first], iterator)
        if lexical:
            stream = self._score_lexical(stream, lexical)
        for spec in computed:
            if spec not in lexical:
                stream = self._score_neural(stream, spec)
        for segment in stream:
            _require_columns(segment, columns)
            yield segment

    @property
    def cache_path(self) -> Path | None:
        """The file of the cache, if one was opened."""
        return None if self._cache is None else self._cache_path

    def close(self) -> None:
        """Close the cache, if one was opened."""
        if self._cache is not None:
            self._cache.close()

    def signatures(self, num_references: int) -> dict[str, str]:
        """Return metric -> signature, or several signatures if target languages have different tokenizers.

        num_references: per segment; -1: it varies.
        """
        signatures: dict[str, dict[str, None]] = {metric_name(spec): {} for spec in self.metrics}
        for (spec, _), metric in self._loaded.items():
            signatures[metric_name(spec)][metric.signature(num_references, sentence=True)] = None
        return {name: "; ".join(distinct) or "scores found in the input" for name, distinct in signatures.items()}

    def _score_lexical(self, segments: Iterator[Segment], specs: Sequence[str]) -> Iterator[Segment]:
        # All metrics in one task: a segment is sent to a worker once.
        head = list(islice(segments, SEGMENTS_FOR_WORKERS))
        workers = self.workers if len(head) == SEGMENTS_FOR_WORKERS else 1
        chunks = _chunks(chain(head, segments), SEGMENTS_PER_CHUNK)
        for chunk, scores in map_in_order(partial(_score_chunk, specs), chunks, workers):
            yield from self._merge(chunk, specs, list(map(without_spans, scores)))

    def _score_neural(self, segments: Iterator[Segment], spec: str) -> Iterator[Segment]:
        for chunk in self._model_chunks(segments, spec):
            unscored = [_unscored(segment, spec) for segment in chunk]
            scores: Scores = [[] for _ in chunk]
            # If every score exists already, the model is not even loaded.
            if any(segment.candidates for segment in unscored):
                scores = self._metric(spec, chunk[0].tgt_lang).score_with_spans(unscored)
            yield from self._merge(chunk, [spec], [scores])

    def _model_chunks(self, segments: Iterator[Segment], spec: str) -> Iterator[list[Segment]]:
        """Yield the segments in chunks, multiplied by the metric's number of processes once it is loaded."""
        size = SEGMENTS_PER_MODEL_CHUNK
        while chunk := list(islice(segments, size)):
            yield chunk
            metric = self._loaded.get((spec, ""))
            if metric is not None:
                size = SEGMENTS_PER_MODEL_CHUNK * metric.processes

    def _merge(self, chunk: Sequence[Segment], specs: Sequence[str], scores: Sequence[Scores]) -> Iterator[Segment]:
        for index, segment in enumerate(chunk):
            candidates: Sequence[Candidate] = segment.candidates
            for spec, scores_of_metric in zip(specs, scores, strict=True):
                new = scores_of_metric[index]
                if new:
                    self._metric(spec, segment.tgt_lang)  # even if only a worker used it: its signature is reported
                candidates = _with_scores(segment.id, candidates, spec, new)
            yield replace(segment, candidates=tuple(candidates))

    def _metric(self, spec: str, tgt_lang: str) -> CandidateMetric:
        """Return the metric, loaded once; lexical ones once for each target language, on which BLEU depends."""
        key = spec, tgt_lang if candidate_kind(spec).is_lexical else ""
        if key not in self._loaded:
            self._loaded[key] = load_candidate_metric(spec, tgt_lang, self._comet, self._with_cache)
        return self._loaded[key]

    def _with_cache(self, metric: Metric) -> CandidateMetric:
        if self._cache_path is None:
            return metric
        if self._cache is None:
            self._cache = ScoreCache(self._cache_path)
            detail(f"score cache: {self._cache_path}")
            self.notes += [self._cache.note] if self._cache.note else []
        return CachedMetric(metric, self._cache)


def check_metrics(metrics: Sequence[str], first: Segment | None = None) -> None:
    """Check the names of metrics before any work. first: a segment; scores of its candidates are valid names too.

    Raises:
        UserError: A name is neither a metric nor such a score, or two metrics have the same name.
    """
    names = [metric_name(spec) for spec in metrics]
    columns: set[str] = set()
    for candidate in first.candidates if first else ():
        columns |= candidate.scores.keys()
    for spec, name in zip(metrics, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"metric {name!r} is given twice; scores are stored under the name before the colon")
        if is_computed(spec):
            candidate_kind(spec)
        elif spec not in columns:
            raise choose("metric", spec, METRICS.keys() | columns)


def _require_columns(segment: Segment, names: Sequence[str]) -> None:
    """Raise UserError unless every candidate has a finite number under each name."""
    for candidate in segment.candidates:
        for name in names:
            if name not in candidate.scores:
                raise UserError(
                    f"segment {segment.id}: {candidate.system} has no score {name!r}, and {name} is not a metric"
                )
            _require_finite(segment.id, candidate, name)


def _require_finite(segment_id: str, candidate: Candidate, name: str) -> None:
    score = candidate.scores[name]
    if not math.isfinite(score):
        raise UserError(
            f"segment {segment_id}: {name} of {candidate.system} is {score}; correct it, or leave the segment out"
        )


def _chunks(segments: Iterable[Segment], size: int) -> Iterator[list[Segment]]:
    iterator = iter(segments)
    while chunk := list(islice(iterator, size)):
        yield chunk


# Cached: a worker gets one chunk at a time and must not load the metrics again for each.
@lru_cache(maxsize=64)
def _metric_of_worker(spec: str, tgt_lang: str) -> CandidateMetric:
    return load_candidate_metric(spec, tgt_lang)


def _score_chunk(specs: Sequence[str], chunk: Sequence[Segment]) -> list[list[list[float]]]:
    """Return scores[metric][segment] of the candidates that lack the score. Runs in a worker."""
    scores: list[list[list[float]]] = []
    for spec in specs:
        rows: list[list[float]] = []
        for segment in chunk:  # one by one, because target languages may differ
            rows += _metric_of_worker(spec, segment.tgt_lang).score_candidates([_unscored(segment, spec)])
        scores.append(rows)
    return scores


def _unscored(segment: Segment, spec: str) -> Segment:
    """Return the segment with only those candidates that the metric must score."""
    missing = tuple(c for c in segment.candidates if metric_name(spec) not in c.scores)
    # If scores depend on the other candidates, a new candidate changes the scores of all.
    return segment if missing and depends_on_set(spec) else replace(segment, candidates=missing)


def _with_scores(
    segment_id: str, candidates: Sequence[Candidate], spec: str, scores: Sequence[ScoreWithSpans]
) -> tuple[Candidate, ...]:
    """Return the candidates with their new scores, for all of them or only those that had none."""
    name, new = metric_name(spec), iter(scores)
    all_are_new = len(scores) == len(candidates)
    scored: list[Candidate] = []
    for candidate in candidates:
        keeps_its_score = name in candidate.scores and not all_are_new
        scored.append(candidate if keeps_its_score else with_score(name, candidate, next(new)))
        _require_finite(segment_id, scored[-1], name)
    return tuple(scored)
