"""Scores of systems on test sets: corpus scores with intervals, significance against a baseline, segment scores.

`evaluate_outputs` computes, `write_evaluation` keeps it in a run directory:

    evaluation.json                                 all scores, with signatures
    translations/<suite>/<pair>/<system>.txt        one translation a line
    translations/<suite>/<pair>/segments.jsonl      segments, their candidates the systems, with segment scores
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field

from mtcpo.config import Config, PathOrName
from mtcpo.errors import UserError, choose
from mtcpo.files import read_lines, refuse_existing, write_json, write_json_lines, write_text
from mtcpo.metrics import Metric, MetricSpec
from mtcpo.records import Candidate, Segment, segment_to_json
from mtcpo.significance import Array, bootstrap_p_value, bootstrap_scores, half_width_95, interval_95
from mtcpo.testsets import SuiteSpec, TestSet, TestSetConfig, check_name

LINE_BREAK = re.compile(r"\r\n|\r|\n")


class EvaluateConfig(Config):
    """What is measured, on what, and how differences are tested."""

    suites: tuple[SuiteSpec, ...] = Field((), description="Shipped suites, suite files, or sacreBLEU's wmt22:de-en")
    sets: tuple[TestSetConfig, ...] = Field((), description="Test sets in files of one's own")
    test_set_dir: PathOrName | None = Field(None, description="Folder of test sets in the WMT layout")
    metrics: tuple[MetricSpec, ...] = Field(
        ("bleu", "chrf", "ter"), min_length=1, description="Metrics, as in --metric"
    )
    baseline: str | None = Field(None, description="System that the others are compared with; default: the first")
    resamples: int = Field(1000, ge=1, description="Resamples of the paired bootstrap")
    seed: int = Field(12345, ge=0, description="Seed of the resamples; sacreBLEU's default is 12345")


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


def evaluate_outputs(
    test_set: TestSet,
    outputs: Mapping[str, Sequence[str]],
    metrics: Sequence[Metric],
    config: EvaluateConfig | None = None,
    chosen_by: Collection[str] = (),
) -> Evaluation:
    """Score the systems' outputs and test each against the baseline.

    Args:
        test_set: What was translated.
        outputs: System -> one translation for each segment.
        metrics: Loaded for the target language.
        config: Baseline, resamples and seed.
        chosen_by: Names of metrics that chose the training pairs; they are marked, since training pursues them.

    Raises:
        UserError: no metric, no system, outputs of another length, a missing reference, an unknown baseline.
    """
    config = config or EvaluateConfig()
    baseline = _check(test_set, outputs, metrics, config.baseline)
    tables = {
        metric.name: [metric.statistics(texts, test_set.segments) for texts in outputs.values()] for metric in metrics
    }
    scorers = [metric.corpus_score for metric in metrics for _ in outputs]
    resampled = iter(bootstrap_scores(list(chain(*tables.values())), scorers, config.resamples, config.seed))
    systems = {name: _describe(test_set, texts) | {"metrics": {}, "versus": {}} for name, texts in outputs.items()}
    segments = _with_candidates(test_set.segments, outputs)
    described = {metric.name: _describe_metric(metric, test_set, chosen_by) for metric in metrics}
    for metric in metrics:
        sums = [table.sum(axis=0) for table in tables[metric.name]]
        scores = {system: float(metric.corpus_score(total)) for system, total in zip(outputs, sums, strict=True)}
        draws = {system: next(resampled) for system in outputs}
        for system, row in systems.items():
            row["metrics"][metric.name] = _score(scores[system], draws[system], described[metric.name])
            if system != baseline:
                delta = scores[system] - scores[baseline]
                row["versus"].setdefault(baseline, {})[metric.name] = _compare(delta, draws[system] - draws[baseline])
        segments = _with_scores(segments, metric, tables[metric.name])
    return Evaluation(test_set, _entry(test_set, baseline, config, described, systems), segments)


def _entry(
    test_set: TestSet, baseline: str, config: EvaluateConfig, metrics: Mapping[str, Any], systems: Mapping[str, Any]
) -> dict[str, Any]:
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
        "significance": {"test": "paired bootstrap", "resamples": config.resamples, "seed": config.seed},
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


def _describe(test_set: TestSet, texts: Sequence[str]) -> dict[str, Any]:
    """Return what a system's outputs are like, before any metric.

    length_ratio: characters of the outputs / characters of the references (their mean, where there are several).
    copied: outputs that repeat their source.
    """
    ratio = None
    if all(segment.references for segment in test_set.segments):
        references = sum(sum(map(len, s.references)) / len(s.references) for s in test_set.segments)
        ratio = sum(map(len, texts)) / references if references else None
    pairs = zip(texts, test_set.segments, strict=True)
    return {
        "length_ratio": ratio,
        "empty": sum(not text.strip() for text in texts),
        "copied": sum(bool(text.strip()) and text.strip() == segment.source.strip() for text, segment in pairs),
    }


def _describe_metric(metric: Metric, test_set: TestSet, chosen_by: Collection[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "signature": metric.signature(_num_references(test_set) if metric.needs_references else 0),
        "higher_is_better": metric.higher_is_better,
        "percent": metric.percent,
    }
    return row | ({"chose_pairs": True} if metric.name in chosen_by else {})


def _score(score: float, resampled: Array, described: Mapping[str, Any]) -> dict[str, Any]:
    row = {"score": score, "ci": half_width_95(resampled), "signature": described["signature"]}
    return row | ({"chose_pairs": True} if "chose_pairs" in described else {})


def _compare(delta: float, differences: Array) -> dict[str, float]:
    """Return the difference to the baseline, its p-value, and the 95 % interval of the resampled differences (R,)."""
    low, high = interval_95(differences)
    return {"delta": delta, "p_value": bootstrap_p_value(differences, delta), "low": low, "high": high}


def _with_candidates(segments: Sequence[Segment], outputs: Mapping[str, Sequence[str]]) -> tuple[Segment, ...]:
    return tuple(
        replace(segment, candidates=tuple(Candidate(system, texts[row]) for system, texts in outputs.items()))
        for row, segment in enumerate(segments)
    )


def _with_scores(segments: tuple[Segment, ...], metric: Metric, tables: Sequence[Array]) -> tuple[Segment, ...]:
    """Add the metric's segment scores, higher is better. `tables`: statistics (N, K) of each system."""
    if metric.signature(1, sentence=True) == metric.signature(1):
        # A segment's score is then the corpus score of it alone: a slow metric need not run twice.
        sign = 1.0 if metric.higher_is_better else -1.0
        rows = list(zip(*((sign * metric.corpus_score(table) + 0.0).tolist() for table in tables), strict=True))
    else:  # BLEU, whose sentence score stops at the orders that a short sentence has
        rows = [tuple(scores) for scores in metric.score_candidates(segments)]
    return tuple(
        replace(
            segment,
            candidates=tuple(
                replace(candidate, scores={**candidate.scores, metric.name: score})
                for candidate, score in zip(segment.candidates, scores, strict=True)
            ),
        )
        for segment, scores in zip(segments, rows, strict=True)
    )


def _num_references(test_set: TestSet) -> int:
    """Return how many references each segment has; -1 where that varies, which signatures write as "var"."""
    counts = {len(segment.references) for segment in test_set.segments}
    return counts.pop() if len(counts) == 1 else -1


def _sha256(test_set: TestSet) -> str:
    """Return a hash of sources and references, so that two evaluations can be known to be of the same text."""
    lines = ("\t".join((segment.source, *segment.references)) for segment in test_set.segments)
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def write_evaluation(output_dir: Path, evaluations: Sequence[Evaluation], overwrite: bool = False) -> Path:
    """Write translations, segments.jsonl and, last, evaluation.json; return the path of the latter.

    Line breaks inside a translation become spaces in the .txt files, where a line is a segment.

    Raises:
        UserError: evaluation.json exists and `overwrite` is off, or two evaluations are of one test set.
    """
    path = output_dir / "evaluation.json"
    refuse_existing(path, overwrite)
    document = to_document(evaluations)
    for evaluation in evaluations:
        folder = translations_dir(output_dir, evaluation.test_set.name, evaluation.test_set.pair)
        write_json_lines(folder / "segments.jsonl", map(segment_to_json, evaluation.segments))
        for at, system in enumerate(evaluation.entry["systems"]):
            texts = (segment.candidates[at].text for segment in evaluation.segments)
            write_translations(folder / f"{check_name('system', system)}.txt", texts)
    write_json(path, document)
    return path


def write_translations(path: Path, texts: Iterable[str]) -> None:
    """Write one translation a line; line breaks inside one become spaces."""
    write_text(path, "".join(LINE_BREAK.sub(" ", text) + "\n" for text in texts))


def translations_dir(run_dir: Path, suite: str, pair: str) -> Path:
    """Return the folder of a test set's translations; the names are checked, since they become a path."""
    return run_dir / "translations" / check_name("test set", suite) / check_name("language pair", pair)


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
