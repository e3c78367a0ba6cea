"""`mtcpo evaluate --compare RUN1 RUN2 …`: the systems of several runs in one table, tested against one baseline.

Translations come from the runs' segments.jsonl. Lexical metrics are computed again, with the same resamples for all
systems; scores of neural metrics (COMET) are reused if all runs have them with the same signature.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtcpo.core.errors import UserError, counted
from mtcpo.data.records import Segment
from mtcpo.data.rows import read_segments
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.document import Decoding, MetricDescription, SetEntry, read_document
from mtcpo.evaluation.evaluate import evaluate_outputs
from mtcpo.evaluation.results import EVALUATION_FILE, Evaluation, translations_dir
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.base import Metric, NeuralMetric, ScoreWithSpans, scores_only
from mtcpo.metrics.registry import is_lexical, load_metric

SetKey = tuple[str, str]
"""Suite and language pair."""


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """An evaluated run directory. entries: (suite, pair) -> entry of its evaluation.json."""

    name: str
    folder: Path
    entries: Mapping[SetKey, SetEntry]

    def read_segments(self, key: SetKey) -> tuple[Segment, ...]:
        """Read the segments of a test set, with the run's systems as candidates.

        Raises:
            UserError: no such file, or its number of segments differs from evaluation.json.
        """
        path, expected = translations_dir(self.folder, *key) / "segments.jsonl", self.entries[key].segments
        segments = tuple(read_segments(path))
        if len(segments) != expected:
            raise UserError(
                f"{path}: {counted(len(segments), 'segment')}, but {expected} were evaluated; evaluate the run again"
            )
        return segments


class KnownScores(NeuralMetric):
    """A metric whose segment scores are already in the compared runs.

    scores: (segment id, translation) -> score and error spans. description: the metric's entry in evaluation.json.
    """

    def __init__(
        self, name: str, scores: Mapping[tuple[str, str], ScoreWithSpans], description: MetricDescription
    ) -> None:
        self.name = name
        self.needs_references = False
        self.higher_is_better = description.higher_is_better
        self.percent = description.percent
        # Error counts need the error spans of every translation.
        self.finds_error_spans = all(scored.errors is not None for scored in scores.values())
        self._scores = scores
        self._signature = description.signature

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the signature with which the scores were computed."""
        return self._signature

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the stored scores[segment][candidate]."""
        return scores_only(self.score_with_spans(segments))

    def score_with_spans(self, segments: Sequence[Segment]) -> list[list[ScoreWithSpans]]:
        """Return the stored scores and error spans of each candidate."""
        rows = []
        for segment in segments:
            rows.append([self._scores[segment.id, candidate.text] for candidate in segment.candidates])
        return rows


def compare_runs(
    folders: Sequence[Path], config: EvaluateConfig, report_left_out: Callable[[str], object]
) -> list[Evaluation]:
    """Evaluate the systems of several runs together, on the test sets that all runs share.

    A system is called RUN-SYSTEM, or by its own name if all runs have it with the same translations. If the
    configuration names no metrics, those of the runs are used: lexical ones of any run, neural ones that all runs have.

    Args:
        folders: The run directories.
        config: Metrics, baseline, resamples and seed.
        report_left_out: Called with a one-line message for each test set and each metric that is left out.

    Raises:
        UserError: fewer than two runs, a run without evaluation, no common test set, different texts under the same
            name, two systems that would have the same name, or no common metric.
    """
    if len(folders) < 2:
        raise UserError("--compare needs two run directories or more: mtcpo evaluate --compare RUN1 RUN2")
    runs: dict[str, EvaluatedRun] = {}
    for folder in folders:
        run = _read_run(folder)
        if run.name in runs:
            raise UserError(
                f"two run directories are named {run.name!r}; rename one, since systems are named after their run"
            )
        runs[run.name] = run
    evaluated = tuple(runs.values())
    common = _common_sets(evaluated, report_left_out)
    return [_compare_on(key, evaluated, config, report_left_out) for key in common]


def _read_run(folder: Path) -> EvaluatedRun:
    path = folder / EVALUATION_FILE
    if not path.is_file():
        raise UserError(f"{folder}: no {EVALUATION_FILE} in it; evaluate it first, with --output-dir {folder}")
    # Not the document's own keys: they include the suite only if several test sets share a language pair.
    entries = {(entry.suite, entry.pair): entry for entry in read_document(path).entries}
    # Resolved, so that a run given as `.` has its folder's name.
    return EvaluatedRun(folder.resolve().name, folder, entries)


def _common_sets(runs: Sequence[EvaluatedRun], report_left_out: Callable[[str], object]) -> list[SetKey]:
    """Return the test sets that all runs were evaluated on."""
    common = set(runs[0].entries)
    for run in runs:
        common &= set(run.entries)
    if not common:
        sets_by_run = [f"{run.folder} has {', '.join(map(' '.join, run.entries))}" for run in runs]
        raise UserError(f"no test set is common to all runs: {'; '.join(sets_by_run)}")
    for run in runs:
        for key in run.entries:
            if key not in common:
                report_left_out(f"{' '.join(key)} is left out: {run.folder} was evaluated on it, but not every run was")
    # In the order of the first run: a set has none.
    return [key for key in runs[0].entries if key in common]


def _compare_on(
    key: SetKey, runs: Sequence[EvaluatedRun], config: EvaluateConfig, report_left_out: Callable[[str], object]
) -> Evaluation:
    """Evaluate the systems of all runs on one test set."""
    first = runs[0].entries[key]
    for run in runs[1:]:
        # The same name is not enough: versions of a test set may differ in their lines.
        if run.entries[key].sha256 != first.sha256:
            raise UserError(
                f"{run.folder}: its {key[0]} {key[1]} has different sources or references from that of "
                f"{runs[0].folder}; evaluate both on the same test set"
            )
    segments_by_run = [run.read_segments(key) for run in runs]
    test_set = TestSet(
        name=key[0],
        src_lang=first.src_lang,
        tgt_lang=first.tgt_lang,
        segments=tuple(replace(segment, candidates=()) for segment in segments_by_run[0]),
        origin=first.origin,
        reference_names=first.reference_names,
    )
    selection_metrics: set[str] = set()
    for run in runs:
        selection_metrics.update(run.entries[key].selection_metrics)
    outputs = _outputs(runs, segments_by_run)
    metrics = _metrics(key, runs, segments_by_run, config, report_left_out)
    return evaluate_outputs(test_set, outputs, metrics, config, selection_metrics, _decodings(key, runs, outputs))


def _outputs(runs: Sequence[EvaluatedRun], segments_by_run: Sequence[Sequence[Segment]]) -> dict[str, list[str]]:
    """Return system -> translations; systems that all runs share appear once, and first."""
    outputs_by_run = list(map(_texts_by_system, segments_by_run))
    # Usually the model before training: as a single system, it can be the baseline for all runs.
    shared: dict[str, list[str]] = {}
    for system, texts in outputs_by_run[0].items():
        if all(outputs.get(system) == texts for outputs in outputs_by_run):
            shared[system] = texts
    not_shared: dict[str, list[str]] = {}
    for run, outputs in zip(runs, outputs_by_run, strict=True):
        for system, texts in outputs.items():
            name = f"{run.name}-{system}"
            if system in shared:
                continue
            # Run a-b with system c, and run a with system b-c.
            if name in not_shared or name in shared:
                raise UserError(f"{run.folder}: two systems would be named {name!r}; rename a run directory")
            not_shared[name] = texts
    return shared | not_shared


def _decodings(key: SetKey, runs: Sequence[EvaluatedRun], outputs: Collection[str]) -> dict[str, Decoding]:
    """Return how the systems were decoded, as far as their runs know it. outputs: names as of `_outputs`."""
    decodings: dict[str, Decoding] = {}
    for run in runs:
        for system, scores in run.entries[key].systems.items():
            name = system if system in outputs else f"{run.name}-{system}"
            if scores.decoding is not None:
                decodings.setdefault(name, scores.decoding)
    return decodings


def _texts_by_system(segments: Sequence[Segment]) -> dict[str, list[str]]:
    texts = {}
    # All segments of a segments.jsonl have the same systems in the same order.
    for index, candidate in enumerate(segments[0].candidates):
        texts[candidate.system] = [segment.candidates[index].text for segment in segments]
    return texts


def _metrics(
    key: SetKey, runs: Sequence[EvaluatedRun], segments_by_run: Sequence[Sequence[Segment]], config: EvaluateConfig,
    report_left_out: Callable[[str], object],
) -> list[Metric]:  # fmt: skip
    """Return the metrics of a comparison: lexical ones are computed again, neural ones use the runs' scores."""
    entries = [run.entries[key] for run in runs]
    specs = list(config.metrics or _common_metrics(key, entries, report_left_out))
    if not specs:
        raise UserError(f"{' '.join(key)}: no metric is common to all runs; choose one, for example --metric chrf")
    metrics: list[Metric] = []
    for spec in specs:
        # A spec with a checkpoint of its own (comet:PATH) is not a name in the runs, so it is computed.
        if not is_lexical(spec) and _all_have(entries, spec):
            metrics.append(_known_scores(spec, runs, segments_by_run, entries))
        else:
            metrics.append(load_metric(spec, entries[0].tgt_lang, config.comet))
    return metrics


def _common_metrics(key: SetKey, entries: Sequence[SetEntry], report_left_out: Callable[[str], object]) -> list[str]:
    """Return the metrics available for all systems: lexical ones of any run, neural ones that every run has."""
    names: dict[str, None] = {}
    for entry in entries:
        names.update(dict.fromkeys(entry.main_metrics))
    common = []
    for name in names:
        if is_lexical(name) or _all_have(entries, name):
            common.append(name)
        else:
            report_left_out(f"{name} on {' '.join(key)} is left out: not every run has scores of this model")
    return common


def _all_have(entries: Sequence[SetEntry], metric: str) -> bool:
    return all(metric in entry.metrics for entry in entries)


def _known_scores(
    name: str,
    runs: Sequence[EvaluatedRun],
    segments_by_run: Sequence[Sequence[Segment]],
    entries: Sequence[SetEntry],
) -> KnownScores:
    """Return a neural metric backed by the scores in the runs."""
    # Scores by different models, or versions of a model, are not comparable.
    signatures = {entry.metrics[name].signature for entry in entries}
    if len(signatures) > 1:
        raise UserError(
            f"{name}: {' and '.join(str(run.folder) for run in runs)} have different signatures "
            f"({'; '.join(sorted(signatures))}); choose other metrics with --metric, or evaluate again"
        )
    scores: dict[tuple[str, str], ScoreWithSpans] = {}
    for segments in segments_by_run:
        for segment in segments:
            for candidate in segment.candidates:
                scored = ScoreWithSpans(candidate.scores[name], candidate.errors.get(name))
                scores[segment.id, candidate.text] = scored
    return KnownScores(name, scores, entries[0].metrics[name])
