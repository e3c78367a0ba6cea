"""Scores of systems on test sets: corpus scores with intervals, significance against a baseline, segment scores.

`evaluate_outputs` computes, `write_evaluation` keeps it in a run directory:

    evaluation.json                                 all scores, with signatures
    translations/<suite>/<pair>/<system>.txt        one translation a line
    translations/<suite>/<pair>/segments.jsonl      segments, their candidates the systems, with segment scores
    spans/<suite>/<pair>/<system>.jsonl             the errors that a metric finds, a translation a line
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from pydantic import Field

from mtcpo.config import Config, PathOrName
from mtcpo.errors import UserError, choose
from mtcpo.files import read_lines, refuse_existing, write_json, write_json_lines, write_text
from mtcpo.langid import why_unchecked
from mtcpo.metrics import CometConfig, Metric, MetricSpec, load_metric, metric_kind
from mtcpo.metrics.contract import bare_judgements, finds_errors, judge, judged_by
from mtcpo.records import SEVERITIES, Candidate, Segment, errors_to_json, segment_to_json
from mtcpo.scorecache import CACHE_FILE, CachedModel, ScoreCache
from mtcpo.significance import Array
from mtcpo.standings import by_length, comparisons, resampled, score_rows, swapped
from mtcpo.suites import SuiteSpec
from mtcpo.symptoms import describe
from mtcpo.tallies import tally, with_each_reference
from mtcpo.testsets import TestSet, TestSetConfig, check_name

LOG = logging.getLogger(__name__)

LINE_BREAK = re.compile(r"\r\n|\r|\n")

ERRORS = "errors_per_segment"
"""What evaluation.json calls the errors of each severity that a metric finds in a system's translation, on average."""

DEFAULT_METRICS = ("bleu", "chrf")
"""Where neither the command nor the suite says more: quick, and each with its own blind spots. TER takes ten times as
long as both together."""


class EvaluateConfig(Config):
    """What is measured, on what, and how differences are tested."""

    suites: tuple[SuiteSpec, ...] = Field((), description="Shipped suites, suite files, or sacreBLEU's wmt22:de-en")
    sets: tuple[TestSetConfig, ...] = Field((), description="Test sets in files of one's own")
    test_set_dir: PathOrName | None = Field(None, description="Folder of test sets in the WMT layout")
    submitted: bool = Field(False, description="Score the systems that took part as well, where the test set has them")
    metrics: tuple[MetricSpec, ...] | None = Field(
        None, min_length=1, description="Metrics, as in --metric; default: the suite's, else bleu and chrf"
    )
    comet: CometConfig = Field(CometConfig(), description="How COMET models are run")
    score_cache: PathOrName | None = Field(
        None, description="File that keeps the scores of models; default: scores.sqlite3 in the output's folder"
    )
    each_reference: bool = Field(False, description="Score against each of several references alone, too: bleu-A, ...")
    baseline: str | None = Field(None, description="System that the others are compared with; default: the first")
    resamples: int = Field(1000, ge=1, description="Resamples of the bootstrap, and swaps of the randomisation")
    seed: int = Field(12345, ge=0, description="Seed of both; sacreBLEU's default is 12345")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of systems on one test set.

    entry: what evaluation.json holds of it. segments: with the systems as candidates, and their segment scores.
    """

    test_set: TestSet
    entry: Mapping[str, Any]
    segments: tuple[Segment, ...]


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
    chosen_by: Collection[str] = (),
) -> Evaluation:
    """Score the systems' outputs and test each against the baseline.

    Args:
        test_set: What was translated. Systems that were submitted for it, if they were loaded, come after `outputs`.
        outputs: System -> one translation for each segment.
        metrics: Loaded for the target language.
        config: Baseline, resamples and seed.
        chosen_by: Names of metrics that chose the training pairs; they are marked, since training pursues them.

    Raises:
        UserError: no metric, no system, two of one name, outputs of another length, a missing reference, an unknown
            baseline.
    """
    config = config or EvaluateConfig()
    outputs = _with_submitted(outputs, test_set)
    baseline = _check(test_set, outputs, metrics, config.baseline)
    if config.each_reference:
        metrics = with_each_reference(metrics, test_set)
    tables = tally(metrics, outputs, test_set.segments)
    systems = {name: describe(test_set, texts) | {"metrics": {}, "versus": {}} for name, texts in outputs.items()}
    described = {metric.name: _describe_metric(metric, test_set, chosen_by) for metric in metrics}
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
    entry = _entry(test_set, baseline, config, described, systems)
    return Evaluation(test_set, entry | {"by_length": by_length(test_set.segments, metrics, tables, outputs)}, segments)


def _with_submitted(outputs: Mapping[str, Sequence[str]], test_set: TestSet) -> dict[str, Sequence[str]]:
    both = next((name for name in outputs if name in test_set.submitted), None)
    if both is not None:
        raise UserError(f"two systems are named {both!r}: yours and one submitted for {test_set.name}; rename yours")
    return {**outputs, **test_set.submitted}


def _entry(
    test_set: TestSet, baseline: str, config: EvaluateConfig, metrics: Mapping[str, Any], systems: Mapping[str, Any]
) -> dict[str, Any]:
    unchecked = why_unchecked(test_set.tgt_lang)
    return {
        "suite": test_set.name,
        "src_lang": test_set.src_lang,
        "tgt_lang": test_set.tgt_lang,
        "origin": test_set.origin,
        "sha256": _sha256(test_set),
        "segments": len(test_set.segments),
        "references": _num_references(test_set),
        "reference_names": list(test_set.reference_names),
        "baseline": baseline,
        "significance": {
            "test": "paired bootstrap",
            "second_test": "paired approximate randomisation",
            "correction": "Holm" if len(systems) > 2 else None,
            "resamples": config.resamples,
            "seed": config.seed,
        },
        "unchecked": {"wrong_language": unchecked} if unchecked else {},
        "metrics": metrics,
        "systems": systems,
    }


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


def _describe_metric(metric: Metric, test_set: TestSet, chosen_by: Collection[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "signature": metric.signature(_num_references(test_set) if metric.needs_references else 0),
        "higher_is_better": metric.higher_is_better,
        "percent": metric.percent,
    }
    return row | ({"chose_pairs": True} if metric.name in chosen_by else {})


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


def _num_references(test_set: TestSet) -> int:
    """Return how many references each segment has; -1 where that varies, which signatures write as "var"."""
    counts = {len(segment.references) for segment in test_set.segments}
    return counts.pop() if len(counts) == 1 else -1


def _sha256(test_set: TestSet) -> str:
    """Return a hash of sources and references, so that two evaluations can be known to be of the same text."""
    lines = ("\t".join((segment.source, *segment.references)) for segment in test_set.segments)
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def write_evaluation(
    output_dir: Path,
    evaluations: Sequence[Evaluation],
    overwrite: bool = False,
    made: Mapping[str, Any] | None = None,
) -> Path:
    """Write translations, segments.jsonl, errors and, last, evaluation.json; return the path of the latter.

    made: what made it, where no stamp of a run says so. Line breaks inside a translation become spaces in the .txt
    files, where a line is a segment.

    Raises:
        UserError: evaluation.json exists and `overwrite` is off, or two evaluations are of one test set.
    """
    path = output_dir / "evaluation.json"
    refuse_existing(path, overwrite)
    document = to_document(evaluations) | ({} if made is None else {"made": made})
    for evaluation in evaluations:
        folder, of_errors = (
            named(output_dir, evaluation.test_set.name, evaluation.test_set.pair)
            for named in (translations_dir, spans_dir)
        )
        write_json_lines(folder / "segments.jsonl", map(segment_to_json, evaluation.segments))
        for at, system in enumerate(evaluation.entry["systems"]):
            file, texts = check_name("system", system), (segment.candidates[at].text for segment in evaluation.segments)
            write_translations(folder / f"{file}.txt", texts)
            if any(segment.candidates[at].errors for segment in evaluation.segments):
                write_json_lines(of_errors / f"{file}.jsonl", _error_rows(evaluation.segments, at))
            else:  # those of an evaluation before are of other translations, perhaps
                (of_errors / f"{file}.jsonl").unlink(missing_ok=True)
    write_json(path, document)
    return path


def write_translations(path: Path, texts: Iterable[str]) -> None:
    """Write one translation a line; line breaks inside one become spaces."""
    write_text(path, "".join(LINE_BREAK.sub(" ", text) + "\n" for text in texts))


def _error_rows(segments: Iterable[Segment], at: int) -> Iterator[dict[str, Any]]:
    """Yield the errors of a system in each segment, with the text in which they are found."""
    for segment in segments:
        found = segment.candidates[at]
        yield {"id": segment.id, "text": found.text, "errors": errors_to_json(found.errors)}


def translations_dir(run_dir: Path, suite: str, pair: str) -> Path:
    """Return the folder of a test set's translations; the names are checked, since they become a path."""
    return run_dir / "translations" / check_name("test set", suite) / check_name("language pair", pair)


def spans_dir(run_dir: Path, suite: str, pair: str) -> Path:
    """Return the folder of the errors in a test set's translations; the names are checked."""
    return run_dir / "spans" / check_name("test set", suite) / check_name("language pair", pair)


def to_document(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return the whole of evaluation.json. A pair that several test sets have is keyed "SUITE:PAIR"."""
    pairs = Counter(evaluation.test_set.pair for evaluation in evaluations)
    document: dict[str, Any] = {}
    for evaluation in evaluations:
        name, pair = evaluation.test_set.name, evaluation.test_set.pair
        key = pair if pairs[pair] == 1 else f"{name}:{pair}"
        if key in document:
            raise UserError(f"two test sets are {name} {pair}; rename one")
        document[key] = evaluation.entry
    return {"pairs": document}
