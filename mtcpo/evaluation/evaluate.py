"""Scores of systems on test sets: corpus scores with intervals, significance against a baseline, segment scores.

`evaluate_outputs` computes, `write_evaluation` keeps it in a run directory:

    evaluation.json                                 all scores, with signatures
    translations/<suite>/<pair>/<system>.txt        one translation a line
    translations/<suite>/<pair>/segments.jsonl      segments, their candidates the systems, with segment scores
    spans/<suite>/<pair>/<system>.jsonl             the errors that a metric finds, a translation a line
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, choose
from mtcpo.core.files import read_lines
from mtcpo.data.names import check_name
from mtcpo.data.records import SEVERITIES, Candidate, Segment
from mtcpo.evaluation.config import DEFAULT_METRICS, EvaluateConfig
from mtcpo.evaluation.diagnostics import describe
from mtcpo.evaluation.document import ERRORS, Evaluation, entry_of, num_references
from mtcpo.evaluation.ranking import by_length, comparisons, resampled, score_rows, swapped
from mtcpo.evaluation.significance import Array
from mtcpo.evaluation.statistics import tally
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.base import Metric, bare_judgements, finds_errors, judge, judged_by
from mtcpo.metrics.per_reference import with_each_reference
from mtcpo.metrics.registry import load_metric, metric_kind
from mtcpo.metrics.score_cache import CACHE_FILE, CachedModel, ScoreCache

LOG = logging.getLogger(__name__)


def read_outputs(files: Iterable[tuple[str, Path]], test_set: TestSet) -> dict[str, list[str]]:
    """Read the outputs of systems, one translation a line.

    Raises:
        UserError: two systems of one name, or a file of another length than the test set.
    """
    outputs: dict[str, list[str]] = {}
    for system, path in files:
        if system in outputs:
            raise UserError(f"two systems are named {system!r} (the second is {path}); give each a name of its own")
        outputs[check_name("system", system)] = list(read_lines(path))
        if len(outputs[system]) != len(test_set.segments):
            raise UserError(
                f"{path}: {len(outputs[system])} lines, but {test_set.origin} has {len(test_set.segments)}; "
                "line n of one must translate line n of the other"
            )
    return outputs


def metrics_of(config: EvaluateConfig, test_set: TestSet) -> tuple[str, ...]:
    """Return the specs of the metrics for a test set: the command's, else its suite's, else the default."""
    return config.metrics or test_set.metrics or DEFAULT_METRICS


def load_metrics_for(
    test_sets: Sequence[TestSet], config: EvaluateConfig, folder: Path | None = None
) -> list[list[Metric]]:
    """Load the metrics of each test set; one that is a model, and no formula, once for all of them.

    folder: where what is evaluated goes, and the scores of models are kept unless the configuration says where else.

    Raises:
        UserError: an unknown name, a checkpoint that cannot be loaded, or a package that is not installed.
    """
    keys = [[_metric_key(spec, one) for spec in metrics_of(config, one)] for one in test_sets]
    loaded = {key: load_metric(*key, config.comet) for key in dict.fromkeys(chain.from_iterable(keys))}
    path = Path(config.score_cache) if config.score_cache else folder and folder / CACHE_FILE
    models = [key for key in loaded if not metric_kind(key[0]).is_formula]
    if models:
        # Only now: a checkpoint that cannot be loaded leaves no file. Without a folder scores are kept in memory: what
        # a model says is asked for more than once.
        cache = ScoreCache(path or Path(":memory:"))
        if cache.note:
            LOG.warning("mtcpo: %s", cache.note)
        loaded |= {key: CachedModel(loaded[key], cache) for key in models}
    return [[loaded[key] for key in of_set] for of_set in keys]


def _metric_key(spec: str, test_set: TestSet) -> tuple[str, str]:
    return spec, test_set.tgt_lang if metric_kind(spec).is_formula else "und"


def evaluate_outputs(
    test_set: TestSet,
    outputs: Mapping[str, Sequence[str]],
    metrics: Sequence[Metric],
    config: EvaluateConfig | None = None,
    selection_metrics: Collection[str] = (),
) -> Evaluation:
    """Score the systems' outputs and test each against the baseline.

    Args:
        test_set: What was translated. Systems that were submitted for it, if they were loaded, come after `outputs`.
        outputs: System -> one translation for each segment.
        metrics: Loaded for the target language.
        config: Baseline, resamples and seed.
        selection_metrics: Names of metrics that chose the training pairs; they are marked, since training pursues them.

    Raises:
        UserError: no metric, no system, two of one name, outputs of another length, a missing reference, an unknown
            baseline.
    """
    config = config or EvaluateConfig()
    outputs = _with_submitted(outputs, test_set)
    baseline = _check(test_set, outputs, metrics, config.baseline)
    if config.each_reference:
        metrics = with_each_reference(metrics, test_set.reference_names)
    tables = tally(metrics, outputs, test_set.segments)
    systems = {name: describe(test_set, texts) | {"metrics": {}, "versus": {}} for name, texts in outputs.items()}
    described = {metric.name: _describe_metric(metric, test_set, selection_metrics) for metric in metrics}
    segments = _with_candidates(test_set.segments, outputs)
    draws = resampled(metrics, tables, config.resamples, config.seed)
    swaps = swapped(metrics, tables, list(outputs).index(baseline), config.resamples, config.seed)
    for metric in metrics:
        scores = [float(metric.corpus_score(table.sum(axis=0))) for table in tables[metric.name]]
        alone = [metric.segment_scores(table) for table in tables[metric.name]]
        rows = score_rows(metric, scores, draws[metric.name], described[metric.name])
        versus = comparisons(outputs, baseline, scores, draws[metric.name], swaps[metric.name], alone)
        for system, row in zip(outputs, rows, strict=True):
            systems[system]["metrics"][metric.name] = row
            if system != baseline:
                systems[system]["versus"].setdefault(baseline, {})[metric.name] = versus[system]
        segments = _with_judgements(segments, metric, alone)
        if finds_errors(metric):
            for system, counts in zip(outputs, _count_errors(segments, metric.name), strict=True):
                systems[system]["metrics"][metric.name][ERRORS] = counts
    entry = entry_of(test_set, baseline, config, described, systems)
    return Evaluation(test_set, entry | {"by_length": by_length(test_set.segments, metrics, tables, outputs)}, segments)


def _with_submitted(outputs: Mapping[str, Sequence[str]], test_set: TestSet) -> dict[str, Sequence[str]]:
    both = next((name for name in outputs if name in test_set.submitted), None)
    if both is not None:
        raise UserError(f"two systems are named {both!r}: yours and one submitted for {test_set.name}; rename yours")
    return {**outputs, **test_set.submitted}


def _check(
    test_set: TestSet, outputs: Mapping[str, Sequence[str]], metrics: Sequence[Metric], baseline: str | None
) -> str:
    """Refuse what cannot be evaluated; return the baseline's name."""
    where = f"{test_set.name} {test_set.pair}"
    if not metrics:
        raise UserError(f"{where}: no metric to evaluate with; add one, for example --metric chrf")
    twice = [name for name, count in Counter(metric.name for metric in metrics).items() if count > 1]
    if twice:
        raise UserError(f"metric {twice[0]!r} is named twice; name it once")
    if not outputs:
        raise UserError(f"{where}: no system to evaluate; give its outputs with --hyp NAME=FILE, or a --model")
    for system, texts in outputs.items():
        check_name("system", system)
        if len(texts) != len(test_set.segments):
            raise UserError(
                f"system {system!r}: {len(texts)} translations, but {where} ({test_set.origin}) has "
                f"{len(test_set.segments)} segments; each segment needs one translation"
            )
    needy = next((metric.name for metric in metrics if metric.needs_references), None)
    bare = next((segment.id for segment in test_set.segments if not segment.references), None)
    if needy and bare:
        raise UserError(
            f"{where}: no reference for segment {bare}, and {needy} needs one; give --reference, "
            "or choose --metric cometkiwi"
        )
    if baseline is not None and baseline not in outputs:
        raise choose("baseline", baseline, outputs)
    return baseline if baseline is not None else next(iter(outputs))


def _describe_metric(metric: Metric, test_set: TestSet, selection_metrics: Collection[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "signature": metric.signature(num_references(test_set) if metric.needs_references else 0),
        "higher_is_better": metric.higher_is_better,
        "percent": metric.percent,
    }
    return row | ({"chose_pairs": True} if metric.name in selection_metrics else {})


def _with_candidates(segments: Sequence[Segment], outputs: Mapping[str, Sequence[str]]) -> tuple[Segment, ...]:
    return tuple(
        replace(segment, candidates=tuple(Candidate(system, texts[row]) for system, texts in outputs.items()))
        for row, segment in enumerate(segments)
    )


def _with_judgements(segments: tuple[Segment, ...], metric: Metric, scores: Sequence[Array]) -> tuple[Segment, ...]:
    """Add the metric's scores (N,) of each candidate, higher is better, and the errors where it finds them."""
    of_segments = zip(*(of_system.tolist() for of_system in scores), strict=True)
    judged = judge(metric, segments) if finds_errors(metric) else bare_judgements(of_segments)
    return tuple(
        replace(segment, candidates=tuple(map(judged_by, repeat(metric.name), segment.candidates, of_segment)))
        for segment, of_segment in zip(segments, judged, strict=True)
    )


def _count_errors(segments: Sequence[Segment], metric: str) -> list[dict[str, float]]:
    """Return how many errors of each severity a translation has on average, by system."""
    of_systems = zip(*(segment.candidates for segment in segments), strict=True)
    found = [Counter(error.severity for one in texts for error in one.errors[metric]) for texts in of_systems]
    severities = dict.fromkeys((*SEVERITIES, *sorted(set[str]().union(*found))))
    return [{severity: counts[severity] / len(segments) for severity in severities} for counts in found]
