"""COMET as a metric: estimators with and without references, unified models, XCOMET.

What is known of a model comes from its files; it is loaded when the first score is computed, so that a run whose
scores are all in the cache does not load it. The arithmetic is in `mtcpo.metrics.comet`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtcpo.core.errors import UserError
from mtcpo.core.files import sha256_of
from mtcpo.data.records import Segment
from mtcpo.metrics.base import Judgement, MeanOfSegments, scores_of
from mtcpo.metrics.comet.checkpoint import class_of, find_checkpoint, finds_errors, needs_references, read_checkpoint
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.comet.loading import Environment, environment
from mtcpo.metrics.comet.runner import InProcess, Job, Runner, Workers
from mtcpo.metrics.comet.spans import Predictions

SEGMENTS_PER_BLOCK = 512
"""Scored together, since texts of like length are found among many; a constant, so that scores depend on no setting."""

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CometMetric(MeanOfSegments):
    """A COMET model. See `Metric` for the contract; the score with several references is the mean over them.

    weights: sha256 of the checkpoint file. version: of the library. processes: how many blocks are scored at once.
    finds_errors: whether it finds the errors in a translation; where there are several references, beside the first.
    """

    name: str
    checkpoint: str
    class_identifier: str
    weights: str
    precision: str
    version: str
    needs_references: bool
    runner: Runner
    finds_errors: bool = False
    processes: int = 1
    higher_is_better: bool = True
    percent: bool = False

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return model, class, library version, hash of the weights and precision; sentence changes nothing."""
        references = {-1: "var"}.get(num_references, num_references) if self.needs_references else 0
        return (
            f"nrefs:{references}|model:{self.checkpoint}|class:{self.class_identifier}"
            f"|weights:{self.weights[:12]}|precision:{self.precision}|comet:{self.version}"
        )

    def open(self) -> None:
        """Load the model now, so that what is wrong with it shows."""
        self.runner.open()

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the score of each candidate of each segment."""
        return scores_of(self.judge_candidates(segments))

    def judge_candidates(self, segments: Sequence[Segment]) -> list[list[Judgement]]:
        """Return the score of each candidate of each segment, and the errors; equal rows are computed once."""
        groups = [[self._rows(c.text, segment) for c in segment.candidates] for segment in segments]
        blocks, seen = list[list[Row]](), set[Row]()
        for start in range(0, len(groups), SEGMENTS_PER_BLOCK):
            some = groups[start : start + SEGMENTS_PER_BLOCK]
            rows = dict.fromkeys(row for group in some for candidate in group for row in candidate)
            # A row belongs to the first block that has it, as when the blocks were scored in different runs.
            blocks.append([row for row in rows if row not in seen])
            seen.update(rows)
        blocks = [block for block in blocks if block]
        found = self.runner.predict(blocks) if blocks else []
        judged = {
            row: one
            for block, of_block in zip(blocks, found, strict=True)
            for row, one in zip(block, _judgements(of_block), strict=True)
        }
        return [[_mean([judged[row] for row in rows]) for rows in group] for group in groups]

    def _rows(self, hypothesis: str, segment: Segment) -> list[Row]:
        """Return the (source, hypothesis[, reference]) rows whose mean is the score of a hypothesis."""
        if not self.needs_references:
            return [(segment.source, hypothesis)]
        if not segment.references or not all(reference.strip() for reference in segment.references):
            what = "an empty reference" if segment.references else "no reference"
            raise UserError(
                f"segment {segment.id}: {what}; {self.name} ({self.checkpoint}) needs one for every segment, "
                "or choose --metric cometkiwi"
            )
        return [(segment.source, hypothesis, reference) for reference in segment.references]


def _judgements(found: Predictions) -> list[Judgement]:
    if found.spans is None:
        return [Judgement(score) for score in found.scores]
    return [Judgement(score, tuple(errors)) for score, errors in zip(found.scores, found.spans, strict=True)]


def _mean(of_references: Sequence[Judgement]) -> Judgement:
    """Return the mean score of a translation over its references, and the errors beside the first of them."""
    return Judgement(sum(one.score for one in of_references) / len(of_references), of_references[0].errors)


def load_comet(name: str, location: str, config: CometConfig | None = None) -> CometMetric:
    """Return the metric of a COMET model in a directory, a .ckpt file in its directory, or a hub name.

    Raises:
        UserError: the library is not installed, a file is missing, or the pickle holds more than tensors and plain
            values.
    """
    config = config or CometConfig()
    workers = None if config.python is None else Workers(config.python)
    where = environment() if workers is None else workers.environment
    checkpoint = find_checkpoint(location)
    identifier = class_of(checkpoint)
    hyper_parameters = read_checkpoint(checkpoint)["hyper_parameters"]
    precision = _precision(config.precision, where)
    processes = config.processes or max(1, where.gpus)
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
        version=where.comet,
        needs_references=needs_references(identifier, hyper_parameters),
        runner=workers or InProcess(job, "cuda" if where.gpus else "cpu"),
        finds_errors=finds_errors(identifier, hyper_parameters),
        processes=processes,
    )


def _precision(asked: str, where: Environment) -> str:
    """Return the precision that is asked for, or the one that suits the device."""
    if asked != "auto":
        return asked
    if not where.gpus:
        return "fp32"
    return "bf16" if where.bf16 else "fp16"
