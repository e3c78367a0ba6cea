"""The score cache on disk: after a crash, or for a new candidate, only missing scores are computed.

One SQLite file. Rows are only added, each batch in one transaction, so that a killed process loses at most its current
batch, and several processes may share the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from itertools import chain
from pathlib import Path

from mtcpo.core.errors import UserError
from mtcpo.core.progress import Progress
from mtcpo.data.records import Candidate, ErrorSpan, Segment
from mtcpo.metrics.base import Metric, MetricProxy, NeuralMetric, ScoreWithSpans, scores_only

CACHE_FILE = "scores.sqlite3"
"""Default file name, beside the pairs or in the output folder of an evaluation."""

APPLICATION = 0x6D746370  # "mtcp": tells our files from other SQLite databases
VERSION = 2
# Several processes may write to the file; a batch takes milliseconds, or a second on a busy network disk.
SECONDS_TO_WAIT = 60.0
KEYS_PER_QUERY = 500  # SQLite before 3.32 takes 999 parameters
SEGMENTS_PER_BATCH = 512
"""Segments per scoring process that are scored and then written together: the most that a killed process loses."""


class ScoreCache:
    """A file of scores and error spans by key. note: a message for the user about the file, or "".

    Raises:
        UserError: Not a score cache, damaged, or it cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.note = ""
        with self._explain_errors():
            self._connection = sqlite3.connect(path, timeout=SECONDS_TO_WAIT, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, ScoreWithSpans]:
        """Return key -> score for those keys that are in the cache."""
        cached: dict[bytes, ScoreWithSpans] = {}
        with self._explain_errors():
            for start in range(0, len(keys), KEYS_PER_QUERY):
                part = keys[start : start + KEYS_PER_QUERY]
                placeholders = ",".join("?" * len(part))
                query = f"SELECT key, score, errors FROM scores WHERE key IN ({placeholders})"
                for key, score, errors in self._connection.execute(query, part):
                    cached[key] = ScoreWithSpans(score, None if errors is None else _parse_errors(errors))
        return cached

    def add(self, scores: Mapping[bytes, ScoreWithSpans]) -> None:
        """Add scores in one transaction. Existing keys keep their scores; NaN and infinities are left out.

        A score that is not finite stops the command; if it were stored, it would stop the next run too.
        """
        rows = [(key, *_columns(scored)) for key, scored in scores.items() if math.isfinite(scored.score)]
        with self._explain_errors(), self._transaction():
            self._connection.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?)", rows)

    def _prepare(self) -> None:
        with self._transaction():
            application, version = map(self._pragma, ("application_id", "user_version"))
            is_new = next(self._connection.execute("SELECT count(*) FROM sqlite_master"))[0] == 0
            if application != APPLICATION and not is_new:
                raise UserError(f"{self._path}: the database of another program; choose another --score-cache")
            if version != VERSION:
                if not is_new:
                    self.note = (
                        f"{self._path} was written by another version of mtcpo ({version}); starting a new cache"
                    )
                self._connection.execute("DROP TABLE IF EXISTS scores")
                self._connection.execute(
                    "CREATE TABLE scores (key BLOB PRIMARY KEY, score REAL, errors TEXT) WITHOUT ROWID"
                )
                self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def _pragma(self, name: str) -> int:
        return int(next(self._connection.execute(f"PRAGMA {name}"))[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE: wait for other writers here, because SQLite does not wait if a reader becomes a writer later.
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(
                f"{self._path}: cannot be used as a score cache ({error}); delete it, or choose another --score-cache"
            ) from error


def _columns(scored: ScoreWithSpans) -> tuple[float, str | None]:
    """Return the score, and the error spans as JSON: a list with the fields of each."""
    if scored.errors is None:
        return scored.score, None
    return scored.score, json.dumps([astuple(error) for error in scored.errors], ensure_ascii=False)


def _parse_errors(column: str) -> tuple[ErrorSpan, ...]:
    return tuple(ErrorSpan(*values) for values in json.loads(column))


def score_key(signature: str, source: str, hypothesis: str, references: Iterable[str]) -> bytes:
    """Return the key of a score: a hash of everything that it depends on."""
    # JSON separates the parts: ("ab", "c") and ("a", "bc") must differ. Changing this line invalidates users' caches.
    parts = json.dumps([signature, source, hypothesis, *references])
    return hashlib.sha256(parts.encode()).digest()


class CachedMetric(NeuralMetric, MetricProxy):
    """A metric that looks up scores in a cache before it computes them."""

    def __init__(self, metric: Metric, cache: ScoreCache) -> None:
        super().__init__(metric)
        self._cache = cache

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return scores[segment][candidate], a batch of segments at a time."""
        return scores_only(self.score_with_spans(segments))

    def score_with_spans(self, segments: Sequence[Segment]) -> list[list[ScoreWithSpans]]:
        """Return the scores and error spans of each candidate, a batch of segments at a time."""
        size = SEGMENTS_PER_BATCH * self.processes
        scored: list[list[ScoreWithSpans]] = []
        with Progress(f"scoring by {self.name}", len(segments), "segments") as progress:
            for start in range(0, len(segments), size):
                scored += self._score_batch(segments[start : start + size])
                progress.update(len(scored) - progress.done)
        return scored

    def _score_batch(self, segments: Sequence[Segment]) -> list[list[ScoreWithSpans]]:
        """Return scores and error spans; missing ones are computed together and added in one transaction."""
        keys = [[self._key(segment, candidate.text) for candidate in segment.candidates] for segment in segments]
        scores = self._cache.get(list(dict.fromkeys(chain.from_iterable(keys))))
        missing: list[Segment] = []
        new_keys: dict[bytes, None] = {}
        for segment, keys_of_segment in zip(segments, keys, strict=True):
            unscored: list[Candidate] = []
            for candidate, key in zip(segment.candidates, keys_of_segment, strict=True):
                # Systems often agree: the same text is scored once.
                if key not in scores and key not in new_keys:
                    new_keys[key] = None
                    unscored.append(candidate)
            missing.append(replace(segment, candidates=tuple(unscored)))
        if new_keys:
            computed = chain.from_iterable(self.metric.score_with_spans(missing))
            new = dict(zip(new_keys, computed, strict=True))
            self._cache.add(new)
            scores |= new
        return [[scores[key] for key in keys_of_segment] for keys_of_segment in keys]

    def _key(self, segment: Segment, text: str) -> bytes:
        references = segment.references if self.uses_references else ()
        return score_key(self.signature(len(references), sentence=True), segment.source, text, references)
