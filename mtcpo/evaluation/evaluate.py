"""Score systems' outputs on a test set: corpus and segment scores, intervals, significance tests against a baseline."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

from mtcpo.core.errors import UserError, choose, counted
from mtcpo.data.language_id import why_unchecked
from mtcpo.data.names import check_name
from mtcpo.data.records import SEVERITIES, Candidate, Segment
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.diagnostics import diagnose
from mtcpo.evaluation.document import (
    Decoding,
    MetricDescription,
    MetricScore,
    SetEntry,
    Significance,
    SystemScores,
    Versus,
)
from mtcpo.evaluation.ranking import Resampled, compare_with_baseline, resample, score_by_length, score_systems
from mtcpo.evaluation.results import Evaluation
from mtcpo.evaluation.significance import Array
from mtcpo.evaluation.statistics import compute_statistics
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.base import Metric, with_score, without_spans
from mtcpo.metrics.per_reference import with_each_reference


def evaluate_outputs(
    test_set: TestSet,
    outputs: Mapping[str, Sequence[str]],
    metrics: Sequence[Metric],
    config: EvaluateConfig | None = None,
    selection_metrics: Collection[str] = (),
    decodings: Mapping[str, Decoding] | None = None,
) -> Evaluation:
    """Score the systems' outputs and test each system against the baseline.

    Args:
        test_set: What was translated. If outputs submitted for it were loaded, these systems follow those of `outputs`.
        outputs: System -> translations, one for each segment.
        metrics: Loaded for the target language.
        config: Baseline, resamples and seed.
        selection_metrics: Names of the metrics that selected the training pairs. They are marked in the results,
            because training optimizes them.
        decodings: System -> how its outputs were decoded, if that is known.

    Raises:
        UserError: no metric, no system, duplicate names, an output with the wrong number of lines, a missing reference,
            an unknown baseline.
    """
    config = config or EvaluateConfig()
    baseline = check_systems(test_set, outputs.keys(), metrics, config.baseline)
    outputs = {**outputs, **test_set.submitted}
    _check_lengths(test_set, outputs)
    if config.each_reference:
        metrics = with_each_reference(metrics, test_set.reference_names)
    statistics = compute_statistics(metrics, outputs, test_set.segments)
    place_of_baseline = list(outputs).index(baseline)
    resampled = resample(metrics, statistics, place_of_baseline, config.resamples, config.seed)
    results: dict[str, MetricResults] = {}
    segments = _with_candidates(test_set.segments, outputs)
    for metric in metrics:
        description = _describe_metric(metric, test_set, selection_metrics)
        measured = resampled[metric.name]
        results[metric.name], segments = _score(metric, description, measured, segments, list(outputs), baseline)
    entry = SetEntry(
        **_identify(test_set),
        baseline=baseline,
        significance=_describe_tests(config, len(outputs)),
        unchecked=_unchecked(test_set),
        metrics={name: result.description for name, result in results.items()},
        systems=_by_system(test_set, outputs, baseline, results, decodings or {}),
        by_length=score_by_length(test_set.segments, metrics, statistics, list(outputs)),
    )
    return Evaluation(test_set, entry, segments)


@dataclass(frozen=True, slots=True)
class MetricResults:
    """The results of one metric. scores: in the order of the systems. comparisons: system -> against the baseline."""

    description: MetricDescription
    scores: Sequence[MetricScore]
    comparisons: Mapping[str, Versus]


def _score(
    metric: Metric,
    description: MetricDescription,
    resampled: Resampled,
    segments: tuple[Segment, ...],
    systems: Sequence[str],
    baseline: str,
) -> tuple[MetricResults, tuple[Segment, ...]]:
    """Return one metric's results, and the segments with their segment scores by it."""
    corpus_scores, segment_scores = [], []
    for table in resampled.statistics:
        corpus_scores.append(float(metric.corpus_score(table.sum(axis=0))))
        segment_scores.append(metric.segment_scores(table))
    segments = _with_scores(segments, metric, segment_scores)
    scores = score_systems(description, corpus_scores, resampled)
    if metric.finds_error_spans:
        scores = _with_error_counts(scores, segments, metric.name)
    comparisons = compare_with_baseline(systems, baseline, corpus_scores, resampled, segment_scores)
    return MetricResults(description, scores, comparisons), segments


def _by_system(
    test_set: TestSet,
    outputs: Mapping[str, Sequence[str]],
    baseline: str,
    results: Mapping[str, MetricResults],
    decodings: Mapping[str, Decoding],
) -> dict[str, SystemScores]:
    """Regroup results by metric into results by system, as in evaluation.json."""
    systems: dict[str, SystemScores] = {}
    for place, (system, texts) in enumerate(outputs.items()):
        scores, comparisons = {}, {}
        decoding = decodings.get(system)
        for name, result in results.items():
            chose = decoding is not None and decoding.mbr == name
            scores[name] = result.scores[place].model_copy(update={"used_for_decoding": True} if chose else {})
            if system != baseline:
                comparisons[name] = result.comparisons[system]
        # The baseline is not compared with itself: its `versus` is empty.
        versus = {baseline: comparisons} if comparisons else {}
        # Set only if known: evaluation.json has the field only then.
        known = {} if decoding is None else {"decoding": decoding}
        systems[system] = SystemScores(**diagnose(test_set, texts), metrics=scores, versus=versus, **known)
    return systems


def check_systems(test_set: TestSet, systems: Collection[str], metrics: Sequence[Metric], baseline: str | None) -> str:
    """Refuse systems that cannot be scored, whatever their outputs are; return the baseline's name.

    systems: names, without those submitted for the test set.

    Raises:
        UserError: as `evaluate_outputs`, but for the number of lines.
    """
    where = f"{test_set.name} {test_set.pair}"
    _check_metrics(where, metrics)
    for system in systems:
        if system in test_set.submitted:
            both = f"yours and one submitted for {test_set.name}"
            raise UserError(f"two systems are named {system!r}: {both}; rename yours")
    names = [*systems, *test_set.submitted]
    if not names:
        raise UserError(f"{where}: no system to evaluate; give its outputs with --hyp NAME=FILE, or a --model")
    for system in names:
        check_name("system", system)
    check_references(test_set, metrics)
    if baseline is not None and baseline not in names:
        raise choose("baseline", baseline, names)
    return baseline if baseline is not None else names[0]


def _check_lengths(test_set: TestSet, outputs: Mapping[str, Sequence[str]]) -> None:
    where = f"{test_set.name} {test_set.pair}"
    for system, texts in outputs.items():
        if len(texts) != len(test_set.segments):
            raise UserError(
                f"system {system!r}: {counted(len(texts), 'translation')}, but {where} ({test_set.origin}) has "
                f"{counted(len(test_set.segments), 'segment')}; each segment needs one translation"
            )


def _check_metrics(where: str, metrics: Sequence[Metric]) -> None:
    if not metrics:
        raise UserError(f"{where}: no metric to evaluate with; add one, for example --metric chrf")
    for name, count in Counter(metric.name for metric in metrics).items():
        if count > 1:
            raise UserError(f"metric {name!r} is named twice; name it once")


def check_references(test_set: TestSet, metrics: Iterable[Metric]) -> None:
    """Refuse a test set without a reference that a metric needs.

    Raises:
        UserError: the message names the first segment without one, and the metric.
    """
    without_reference = next((segment.id for segment in test_set.segments if not segment.references), None)
    for metric in metrics:
        if metric.needs_references and without_reference is not None:
            raise UserError(
                f"{test_set.name} {test_set.pair}: no reference for segment {without_reference}, and {metric.name} "
                "needs one; give --reference, or choose --metric cometkiwi"
            )


def _identify(test_set: TestSet) -> dict[str, Any]:
    """Return the fields of evaluation.json that say which test set this is."""
    return {
        "suite": test_set.name,
        "src_lang": test_set.src_lang,
        "tgt_lang": test_set.tgt_lang,
        "origin": test_set.origin,
        "sha256": _sha256(test_set),
        "segments": len(test_set.segments),
        "references": _num_references(test_set),
        "reference_names": test_set.reference_names,
    }


def _sha256(test_set: TestSet) -> str:
    """Return the SHA-256 of sources and references: equal hashes mean equal texts."""
    # Without ids and document names: copies of the same test set may differ in them.
    lines = ("\t".join((segment.source, *segment.references)) for segment in test_set.segments)
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def _num_references(test_set: TestSet) -> int:
    """Return the number of references per segment; -1 if it varies, which signatures write as "var"."""
    # -1 is sacreBLEU's own convention.
    counts = {len(segment.references) for segment in test_set.segments}
    return counts.pop() if len(counts) == 1 else -1


def _describe_tests(config: EvaluateConfig, systems: int) -> Significance:
    return Significance(
        test="paired bootstrap",
        # The spelling is part of the file format: other tools may compare the string.
        second_test="paired approximate randomisation",
        correction="Holm" if systems > 2 else None,
        resamples=config.resamples,
        seed=config.seed,
    )


def _unchecked(test_set: TestSet) -> dict[str, str]:
    reason = why_unchecked(test_set.tgt_lang)
    return {"wrong_language": reason} if reason else {}


def _describe_metric(metric: Metric, test_set: TestSet, selection_metrics: Collection[str]) -> MetricDescription:
    # Set only if true: evaluation.json has the field only for such metrics.
    mark = {"used_for_selection": True} if metric.name in selection_metrics else {}
    references = _num_references(test_set) if metric.needs_references else 0
    return MetricDescription(
        signature=metric.signature(references),
        higher_is_better=metric.higher_is_better,
        percent=metric.percent,
        **mark,
    )


def _with_candidates(segments: Sequence[Segment], outputs: Mapping[str, Sequence[str]]) -> tuple[Segment, ...]:
    """Return the segments with the systems' translations as candidates, replacing any that they had."""
    translated = []
    for row, segment in enumerate(segments):
        # Candidates in the order of the systems: the functions below rely on it.
        candidates = tuple(Candidate(system, texts[row]) for system, texts in outputs.items())
        translated.append(replace(segment, candidates=candidates))
    return tuple(translated)


def _with_scores(segments: tuple[Segment, ...], metric: Metric, scores: Sequence[Array]) -> tuple[Segment, ...]:
    """Add the metric's scores, (N,) for each system, higher is better, and its error spans if it finds any."""
    if metric.finds_error_spans:
        # This does not run the model again: scores and spans come from the score cache.
        scored_segments = metric.score_with_spans(segments)
    else:
        scores_by_segment = zip(*(system_scores.tolist() for system_scores in scores), strict=True)
        scored_segments = without_spans(scores_by_segment)
    completed = []
    for segment, scored in zip(segments, scored_segments, strict=True):
        candidates = tuple(map(with_score, repeat(metric.name), segment.candidates, scored))
        completed.append(replace(segment, candidates=candidates))
    return tuple(completed)


def _with_error_counts(rows: Sequence[MetricScore], segments: Sequence[Segment], metric: str) -> list[MetricScore]:
    """Add each system's mean number of errors per translation, by severity."""
    counted = []
    for system in range(len(rows)):
        errors: Counter[str] = Counter()
        for segment in segments:
            errors.update(error.severity for error in segment.candidates[system].errors[metric])
        counted.append(errors)
    # Every system gets every severity that any system has, so that tables have no holes.
    severities = dict.fromkeys((*SEVERITIES, *sorted(set[str]().union(*counted))))
    completed = []
    for row, errors in zip(rows, counted, strict=True):
        means = {severity: errors[severity] / len(segments) for severity in severities}
        completed.append(row.model_copy(update={"errors_per_segment": means}))
    return completed
