"""COMET as a metric: estimators with and without references, unified models, XCOMET.

A model's description is read from its files; the model itself is loaded when the first score is computed, so that a run
whose scores are all cached never loads it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from mtcpo.core.errors import UserError
from mtcpo.core.files import sha256_of
from mtcpo.core.processes import this_process
from mtcpo.core.progress import Progress
from mtcpo.data.records import Segment
from mtcpo.metrics.base import Array, NeuralMetric, ScoreWithSpans, scores_only
from mtcpo.metrics.comet.checkpoint import (
    class_of,
    find_checkpoint,
    finds_error_spans,
    needs_references,
    read_checkpoint,
)
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.comet.loading import Environment, environment
from mtcpo.metrics.comet.runner import InProcess, Job, Runner, Workers
from mtcpo.metrics.comet.spans import Predictions

SEGMENTS_PER_BLOCK = 512
"""Scored together: sorting by length needs many texts. Constant, because block size changes scores' last bits."""

Row = tuple[str, ...]
"""(source, translation[, reference...]); several references count as one, with the mean of their embeddings."""


@dataclass(frozen=True, slots=True)
class CometMetric(NeuralMetric):
    """A COMET model; with several references, the score is the mean over them.

    checkpoint: as named in the signature. weights: SHA-256 of the checkpoint file. version: of COMET. processes: how
    many blocks are scored in parallel. With several references, error spans are those found with the first.
    """

    name: str
    checkpoint: str
    class_identifier: str
    weights: str
    precision: str
    version: str
    runner: Runner
    needs_references: bool
    uses_references: bool = True
    finds_error_spans: bool = False
    processes: int = 1
    higher_is_better: bool = True
    percent: bool = False

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return model, class, hash, precision and COMET's version; the same for segments and corpora."""
        references = {-1: "var"}.get(num_references, num_references) if self.needs_references else 0
        return (
            f"nrefs:{references}|model:{self.checkpoint}|class:{self.class_identifier}"
            f"|weights:{self.weights[:12]}|precision:{self.precision}|comet:{self.version}"
        )

    def open(self) -> None:
        """Load the model."""
        with Progress(f"loading {self.checkpoint}", unit=""):
            self.runner.open()

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return scores[segment][candidate]."""
        return scores_only(self.score_with_spans(segments))

    def score_with_spans(self, segments: Sequence[Segment]) -> list[list[ScoreWithSpans]]:
        """Return score and error spans as [segment][candidate]; equal rows are scored once."""
        scored: list[list[ScoreWithSpans]] = []
        for by_candidate in self._score_rows(self._all_rows(segments)):
            scored.append(list(map(_mean, by_candidate)))
        return scored

    def score_pairs(self, segments: Sequence[Segment]) -> list[Array]:
        """Return, for each segment, the score of each candidate against each reference alone. Shape (C, R).

        An estimator encodes each text once, whether it is a candidate, a reference or both. XCOMET and unified models
        read candidate and reference together: each of the C x R combinations is encoded.
        """
        pairs: list[Array] = []
        for segment, by_candidate in zip(segments, self._score_rows(self._all_rows(segments)), strict=True):
            # A reference-free model scores a candidate once; the score holds against every reference.
            rows = len(segment.references) if self.needs_references else 1
            scores = np.array(scores_only(by_candidate), np.float64).reshape(len(by_candidate), rows)
            pairs.append(np.broadcast_to(scores, (len(by_candidate), len(segment.references))))
        return pairs

    @property
    def can_aggregate(self) -> bool:
        """Whether the embeddings of references can be averaged: estimators embed them apart from the candidates."""
        return self.class_identifier == "regression_metric"

    def score_against_aggregate(self, segments: Sequence[Segment]) -> list[Array]:
        """Return, for each segment, the score of each candidate against the mean embedding of the references. (C,)."""
        rows: list[list[list[Row]]] = []
        for segment in segments:
            rows.append([[(segment.source, c.text, *segment.references)] for c in segment.candidates])
        against_mean = self._score_rows(rows)
        return [np.array([row[0].score for row in by_candidate]) for by_candidate in against_mean]

    def _all_rows(self, segments: Sequence[Segment]) -> list[list[list[Row]]]:
        """Return the rows of each candidate of each segment."""
        rows: list[list[list[Row]]] = []
        for segment in segments:
            rows.append([self._rows(candidate.text, segment) for candidate in segment.candidates])
        return rows

    def _score_rows(self, rows: Sequence[Sequence[Sequence[Row]]]) -> list[list[list[ScoreWithSpans]]]:
        """Return scores and error spans as [segment][candidate][row]; equal rows are scored once."""
        blocks = _blocks(rows)
        # If there are no rows, the model is not even loaded.
        if blocks:
            self.open()
        predictions = self.runner.predict(blocks) if blocks else []
        scores: dict[Row, ScoreWithSpans] = {}
        for block, predicted in zip(blocks, predictions, strict=True):
            scores.update(zip(block, _with_spans(predicted), strict=True))
        scored: list[list[list[ScoreWithSpans]]] = []
        for rows_of_segment in rows:
            scored.append([list(map(scores.__getitem__, rows_of_candidate)) for rows_of_candidate in rows_of_segment])
        return scored

    def _rows(self, hypothesis: str, segment: Segment) -> list[Row]:
        """Return the rows (source, hypothesis[, reference]) whose mean score is the hypothesis's score."""
        if not self.needs_references:
            return [(segment.source, hypothesis)]
        if not segment.references or not all(map(str.strip, segment.references)):
            what = "an empty reference" if segment.references else "no reference"
            raise UserError(
                f"segment {segment.id}: {what}; {self.name} ({self.checkpoint}) needs one for every segment, "
                "or choose --metric cometkiwi"
            )
        return [(segment.source, hypothesis, reference) for reference in segment.references]


def _blocks(rows: Sequence[Sequence[Sequence[Row]]]) -> list[list[Row]]:
    """Return blocks: the distinct rows of each SEGMENTS_PER_BLOCK segments, without empty blocks."""
    blocks: list[list[Row]] = []
    seen: set[Row] = set()
    for start in range(0, len(rows), SEGMENTS_PER_BLOCK):
        candidates = chain.from_iterable(rows[start : start + SEGMENTS_PER_BLOCK])
        distinct = dict.fromkeys(chain.from_iterable(candidates))
        # A row belongs to the first block that has it, as it would if the blocks were scored in separate runs.
        blocks.append([row for row in distinct if row not in seen])
        seen.update(distinct)
    return [block for block in blocks if block]


def _with_spans(predictions: Predictions) -> list[ScoreWithSpans]:
    if predictions.spans is None:
        return list(map(ScoreWithSpans, predictions.scores))
    spans = map(tuple, predictions.spans)
    return list(map(ScoreWithSpans, predictions.scores, spans))


def _mean(scored: Sequence[ScoreWithSpans]) -> ScoreWithSpans:
    """Return a translation's mean score over its references, and the error spans found with the first."""
    total = sum(row.score for row in scored)
    return ScoreWithSpans(total / len(scored), scored[0].errors)


def load_comet(name: str, location: str, config: CometConfig | None = None) -> CometMetric:
    """Return the metric of a COMET model in a directory, a .ckpt file in its directory, or a hub name.

    Raises:
        UserError: COMET is not installed, a file is missing, or the pickle has more than tensors and plain values.
    """
    config = config or CometConfig()
    # Version and precision depend on the other environment's COMET and GPUs, so its worker starts first.
    workers = None if config.python is None else Workers(config.python)
    scores_in = environment() if workers is None else workers.environment
    checkpoint = find_checkpoint(location)
    identifier = class_of(checkpoint)
    hyper_parameters = read_checkpoint(checkpoint)["hyper_parameters"]
    with_references = needs_references(identifier, hyper_parameters)
    precision = _precision(config.precision, scores_in)
    processes = config.processes or max(1, scores_in.gpus)
    job = Job(str(checkpoint), precision, config.batch_tokens)
    if workers is None and processes > 1:
        workers = Workers(sys.executable)
    if workers is not None:
        workers.set_up(job, processes)
    return CometMetric(
        name=name,
        checkpoint=Path(location).name if Path(location).exists() else location,
        class_identifier=identifier,
        weights=sha256_of(checkpoint),
        precision=precision,
        version=scores_in.comet,
        needs_references=with_references,
        uses_references=with_references,
        runner=workers or InProcess(job, _device(scores_in)),
        finds_error_spans=finds_error_spans(identifier, hyper_parameters),
        processes=processes,
    )


def _device(scores_in: Environment) -> str:
    """Return where this process scores: on a GPU if there is one, under a launcher on that of this process."""
    return f"cuda:{this_process().local_rank % scores_in.gpus}" if scores_in.gpus else "cpu"


def _precision(setting: str, scores_in: Environment) -> str:
    """Resolve the precision setting: `auto` depends on the device."""
    if setting != "auto":
        return setting
    if not scores_in.gpus:
        return "fp32"
    return "bf16" if scores_in.bf16 else "fp16"
