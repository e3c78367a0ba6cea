"""Scores of models on disk, so that a second run, a new candidate or a crash costs only what is new.

One SQLite file: rows are only ever added, each batch in one transaction, so that a kill at any moment loses at most
the batch in flight, and several processes may share the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mtcpo.errors import UserError
from mtcpo.metrics.contract import CandidateMetric, MeanOfSegments, Metric, open_models, processes_of
from mtcpo.records import Segment

CACHE_FILE = "scores.sqlite3"
"""Its name where nothing else is said: beside the pairs, or in the folder of an evaluation."""

APPLICATION = 0x6D746370  # "mtcp": what tells our file from anybody else's database
VERSION = 1
SECONDS_TO_WAIT = 60.0
KEYS_PER_QUERY = 500
SEGMENTS_AT_ONCE = 512
"""So many segments' scores are lost at most where an evaluation is killed."""


class ScoreCache:
    """A file of scores by key. note: what there is to say about its opening, or "".

    Raises:
        UserError: not a score cache, damaged, or it cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.note = ""
        with self._explained():
            self._connection = sqlite3.connect(path, timeout=SECONDS_TO_WAIT, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Return the scores of those keys that are there."""
        found: dict[bytes, float] = {}
        with self._explained():
            for start in range(0, len(keys), KEYS_PER_QUERY):
                some = keys[start : start + KEYS_PER_QUERY]
                places = ",".join("?" * len(some))
                found.update(self._connection.execute(f"SELECT key, score FROM scores WHERE key IN ({places})", some))
        return found

    def add(self, scores: Mapping[bytes, float]) -> None:
        """Add scores, all of them or none; one that is there already stays. Only finite ones are kept."""
        rows = [(key, score) for key, score in scores.items() if math.isfinite(score)]
        with self._explained(), self._transaction():
            self._connection.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?)", rows)

    def _prepare(self) -> None:
        with self._transaction():
            application, version = (self._pragma(name) for name in ("application_id", "user_version"))
            is_new = next(self._connection.execute("SELECT count(*) FROM sqlite_master"))[0] == 0
            if application != APPLICATION and not is_new:
                raise UserError(f"{self._path}: a database of something else; choose another --score-cache")
            if version != VERSION:
                if not is_new:
                    self.note = f"{self._path} was written by another version of mtcpo ({version}); begun anew"
                self._connection.execute("DROP TABLE IF EXISTS scores")
                self._connection.execute("CREATE TABLE scores (key BLOB PRIMARY KEY, score REAL) WITHOUT ROWID")
                self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def _pragma(self, name: str) -> int:
        return int(next(self._connection.execute(f"PRAGMA {name}"))[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE: whoever writes waits for its turn here, and not in the middle.
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(
                f"{self._path}: cannot be used as a score cache ({error}); delete it, or choose another --score-cache"
            ) from error


def score_key(signature: str, source: str, hypothesis: str, references: Iterable[str]) -> bytes:
    """Return the key of a score: a hash of all that it depends on."""
    parts = json.dumps([signature, source, hypothesis, *references])
    return hashlib.sha256(parts.encode()).digest()


@dataclass(frozen=True, slots=True)
class CachedMetric:
    """A metric whose scores are looked up before they are computed. depends_on_references: whether they do."""

    metric: CandidateMetric
    cache: ScoreCache
    depends_on_references: bool

    @property
    def name(self) -> str:
        """Return the name of the metric itself."""
        return self.metric.name

    @property
    def processes(self) -> int:
        """In how many processes the metric itself scores."""
        return processes_of(self.metric)

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the signature of the metric itself: a cached score is the same score."""
        return self.metric.signature(num_references, sentence)

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the score of each candidate of each segment; new ones are computed together and added at once."""
        keys = [[self._key(segment, candidate.text) for candidate in segment.candidates] for segment in segments]
        scores = self.cache.get(list({key: None for of_segment in keys for key in of_segment}))
        missing = [
            replace(s, candidates=tuple(c for c, key in zip(s.candidates, ks, strict=True) if key not in scores))
            for s, ks in zip(segments, keys, strict=True)
        ]
        if any(segment.candidates for segment in missing):
            computed = self.metric.score_candidates(missing)
            new = {
                self._key(segment, candidate.text): score
                for segment, of_segment in zip(missing, computed, strict=True)
                for candidate, score in zip(segment.candidates, of_segment, strict=True)
            }
            self.cache.add(new)
            scores |= new
        return [[scores[key] for key in of_segment] for of_segment in keys]

    def _key(self, segment: Segment, text: str) -> bytes:
        references = segment.references if self.depends_on_references else ()
        return score_key(self.signature(len(references), sentence=True), segment.source, text, references)


@dataclass(frozen=True, slots=True)
class CachedModel(MeanOfSegments):
    """A model as a metric of corpora, its scores looked up before they are computed. See `Metric` for the contract."""

    metric: Metric
    cache: ScoreCache

    @property
    def name(self) -> str:
        """As the model's."""
        return self.metric.name

    @property
    def needs_references(self) -> bool:
        """As the model's."""
        return self.metric.needs_references

    @property
    def higher_is_better(self) -> bool:
        """As the model's."""
        return self.metric.higher_is_better

    @property
    def percent(self) -> bool:
        """As the model's."""
        return self.metric.percent

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the model's own: a cached score is the same score."""
        return self.metric.signature(num_references, sentence)

    def open(self) -> None:
        """Load the model now."""
        open_models([self.metric])

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the score of each candidate of each segment, a part of the segments at a time."""
        cached = CachedMetric(self.metric, self.cache, self.metric.needs_references)
        size, scores = SEGMENTS_AT_ONCE * cached.processes, list[list[float]]()
        for start in range(0, len(segments), size):
            scores += cached.score_candidates(segments[start : start + size])
        return scores
