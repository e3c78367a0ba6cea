"""What models say of translations on disk, so that a second run, a new candidate or a crash costs only what is new.

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
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from mtcpo.core.errors import UserError
from mtcpo.data.records import ErrorSpan, Segment
from mtcpo.metrics.base import (
    CandidateMetric,
    Judgement,
    MeanOfSegments,
    Metric,
    StandsFor,
    finds_errors,
    judge,
    open_models,
    processes_of,
    scores_of,
)

CACHE_FILE = "scores.sqlite3"
"""Its name where nothing else is said: beside the pairs, or in the folder of an evaluation."""

APPLICATION = 0x6D746370  # "mtcp": what tells our file from anybody else's database
VERSION = 2
SECONDS_TO_WAIT = 60.0
KEYS_PER_QUERY = 500
SEGMENTS_AT_ONCE = 512
"""So many segments' scores are lost at most where an evaluation is killed."""


class ScoreCache:
    """A file of scores, and of the errors found with them, by key. note: what there is to say about its opening, or "".

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

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Judgement]:
        """Return what is known of those keys that are there."""
        found: dict[bytes, Judgement] = {}
        with self._explained():
            for start in range(0, len(keys), KEYS_PER_QUERY):
                some = keys[start : start + KEYS_PER_QUERY]
                places = ",".join("?" * len(some))
                query = f"SELECT key, score, errors FROM scores WHERE key IN ({places})"
                for key, score, errors in self._connection.execute(query, some):
                    found[key] = Judgement(score, None if errors is None else _errors_of(errors))
        return found

    def add(self, judged: Mapping[bytes, Judgement]) -> None:
        """Add scores and errors, all or none; a key that is there already stays. Only finite scores are kept."""
        rows = [(key, *_columns(one)) for key, one in judged.items() if math.isfinite(one.score)]
        with self._explained(), self._transaction():
            self._connection.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?)", rows)

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
                self._connection.execute(
                    "CREATE TABLE scores (key BLOB PRIMARY KEY, score REAL, errors TEXT) WITHOUT ROWID"
                )
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


def _columns(judged: Judgement) -> tuple[float, str | None]:
    """Return the score, and the errors as JSON: a list of the fields of each."""
    if judged.errors is None:
        return judged.score, None
    return judged.score, json.dumps([astuple(error) for error in judged.errors], ensure_ascii=False)


def _errors_of(column: str) -> tuple[ErrorSpan, ...]:
    return tuple(ErrorSpan(*values) for values in json.loads(column))


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

    @property
    def finds_errors(self) -> bool:
        """Whether the metric itself does."""
        return finds_errors(self.metric)

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the score of each candidate of each segment."""
        return scores_of(self.judge_candidates(segments))

    def judge_candidates(self, segments: Sequence[Segment]) -> list[list[Judgement]]:
        """Return scores and errors of each candidate of each segment; new ones are computed together, added at once."""
        keys = [[self._key(segment, candidate.text) for candidate in segment.candidates] for segment in segments]
        known = self.cache.get(list({key: None for of_segment in keys for key in of_segment}))
        missing = [
            replace(s, candidates=tuple(c for c, key in zip(s.candidates, ks, strict=True) if key not in known))
            for s, ks in zip(segments, keys, strict=True)
        ]
        if any(segment.candidates for segment in missing):
            new = {
                self._key(segment, candidate.text): one
                for segment, of_segment in zip(missing, judge(self.metric, missing), strict=True)
                for candidate, one in zip(segment.candidates, of_segment, strict=True)
            }
            self.cache.add(new)
            known |= new
        return [[known[key] for key in of_segment] for of_segment in keys]

    def _key(self, segment: Segment, text: str) -> bytes:
        references = segment.references if self.depends_on_references else ()
        return score_key(self.signature(len(references), sentence=True), segment.source, text, references)


@dataclass(frozen=True, slots=True)
class CachedModel(StandsFor, MeanOfSegments):
    """A model as a metric of corpora, its scores looked up before they are computed. See `Metric` for the contract."""

    metric: Metric
    cache: ScoreCache

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the model's own: a cached score is the same score."""
        return self.metric.signature(num_references, sentence)

    def open(self) -> None:
        """Load the model now."""
        open_models([self.metric])

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the score of each candidate of each segment."""
        return scores_of(self.judge_candidates(segments))

    def judge_candidates(self, segments: Sequence[Segment]) -> list[list[Judgement]]:
        """Return scores and errors of each candidate of each segment, a part of the segments at a time."""
        cached = CachedMetric(self.metric, self.cache, self.metric.needs_references)
        size, judged = SEGMENTS_AT_ONCE * cached.processes, list[list[Judgement]]()
        for start in range(0, len(segments), size):
            judged += cached.judge_candidates(segments[start : start + size])
        return judged
