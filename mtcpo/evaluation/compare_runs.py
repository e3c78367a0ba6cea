"""`mtcpo evaluate --compare RUN1 RUN2 …`: the systems of several run directories in one table, tested against one.

Translations come from the runs' segments.jsonl. Formulas are computed again, with the same resamples for all systems;
scores of models (COMET) are taken as they are, where all runs have them by one signature.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.data.records import Segment
from mtcpo.data.rows import read_segments
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.document import Evaluation, main_metrics, translations_dir
from mtcpo.evaluation.evaluate import evaluate_outputs
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.base import Metric, NeuralMetric, ScoreWithSpans, scores_only
from mtcpo.metrics.registry import is_lexical, load_metric


@dataclass(frozen=True, slots=True)
class Run:
    """An evaluated run directory. entries: its evaluation.json, by (suite, pair)."""

    name: str
    folder: Path
    entries: Mapping[tuple[str, str], Mapping[str, Any]]

    def segments(self, key: tuple[str, str]) -> tuple[Segment, ...]:
        """Read the segments of a test set, with the run's systems as candidates.

        Raises:
            UserError: no such file, or not as many segments as were evaluated.
        """
        path, expected = translations_dir(self.folder, *key) / "segments.jsonl", self.entries[key]["segments"]
        found = tuple(read_segments(path))
        if len(found) != expected:
            raise UserError(f"{path}: {len(found)} segments, but {expected} were evaluated; evaluate the run again")
        return found


class KnownScores(NeuralMetric):
    """A metric whose segment scores are in the runs that are compared.

    scores: (segment id, translation) -> score and error spans. described: what evaluation.json says of the metric.
    """

    def __init__(
        self, name: str, scores: Mapping[tuple[str, str], ScoreWithSpans], described: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.needs_references = False
        self.higher_is_better = bool(described["higher_is_better"])
        self.percent = bool(described["percent"])
        self.finds_error_spans = all(scored.errors is not None for scored in scores.values())
        self._scores = scores
        self._signature = str(described["signature"])

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return the signature under which the scores were made."""
        return self._signature

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the known scores of each candidate."""
        return scores_only(self.score_with_spans(segments))

    def score_with_spans(self, segments: Sequence[Segment]) -> list[list[ScoreWithSpans]]:
        """Return the known scores and errors of each candidate."""
        return [[self._scores[segment.id, c.text] for c in segment.candidates] for segment in segments]


def compare_runs(folders: Sequence[Path], config: EvaluateConfig, tell: Callable[[str], object]) -> list[Evaluation]:
    """Evaluate the systems of several runs together, on the test sets that all of them have.

    A system is called RUN-SYSTEM, or by its own name where all runs have it with the same translations. Without
    metrics in the configuration those of the runs are taken: lexical ones of any run, neural ones that all runs have.

    Args:
        folders: The run directories.
        config: Metrics, baseline, resamples and seed.
        tell: Is told, a line each, which test sets and metrics are left out.

    Raises:
        UserError: fewer than two runs, one that was not evaluated, no test set in common, other texts under one name,
            or no metric in common.
    """
    if len(folders) < 2:
        raise UserError("--compare needs two run directories or more: mtcpo evaluate --compare RUN1 RUN2")
    runs = [_read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two run directories are named {twice!r}; rename one, since it names the systems")
    common = [key for key in runs[0].entries if all(key in run.entries for run in runs)]
    if not common:
        have = "; ".join(f"{run.folder} has {', '.join(map(' '.join, run.entries))}" for run in runs)
        raise UserError(f"no test set that all runs were evaluated on: {have}")
    for run in runs:
        for key in run.entries:
            if key not in common:
                tell(f"{' '.join(key)} is left out: {run.folder} has it, but not every run")
    return [_compare_on(key, runs, config, tell) for key in common]


def _read_run(folder: Path) -> Run:
    path = folder / "evaluation.json"
    if not path.is_file():
        raise UserError(f"{folder}: no evaluation.json in it; evaluate it first, with --output-dir {folder}")
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))["pairs"].values()
        entries = {(entry["suite"], f"{entry['src_lang']}-{entry['tgt_lang']}"): entry for entry in pairs}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not an evaluation of mtcpo's; make it again") from None
    return Run(folder.resolve().name, folder, entries)


def _compare_on(
    key: tuple[str, str], runs: Sequence[Run], config: EvaluateConfig, tell: Callable[[str], object]
) -> Evaluation:
    first = runs[0].entries[key]
    for run in runs[1:]:
        if run.entries[key]["sha256"] != first["sha256"]:
            raise UserError(
                f"{run.folder}: its {key[0]} {key[1]} has other sources or references than that of {runs[0].folder}; "
                "evaluate both on the same test set"
            )
    segments = [run.segments(key) for run in runs]
    test_set = TestSet(
        key[0], first["src_lang"], first["tgt_lang"],
        tuple(replace(segment, candidates=()) for segment in segments[0]),
        first["origin"], tuple(first["reference_names"]),
    )  # fmt: skip
    selection_metrics = {
        name for run in runs for name, described in run.entries[key]["metrics"].items() if described.get("chose_pairs")
    }
    metrics = _metrics(key, runs, segments, config, tell)
    return evaluate_outputs(test_set, _outputs(runs, segments), metrics, config, selection_metrics)


def _outputs(runs: Sequence[Run], segments: Sequence[Sequence[Segment]]) -> dict[str, list[str]]:
    """Return the translations of all systems; one that all runs share appears once, and first."""
    by_run = [
        {c.system: [segment.candidates[at].text for segment in of_run] for at, c in enumerate(of_run[0].candidates)}
        for of_run in segments
    ]
    shared = [name for name, texts in by_run[0].items() if all(systems.get(name) == texts for systems in by_run)]
    own = {
        f"{run.name}-{name}": texts
        for run, systems in zip(runs, by_run, strict=True)
        for name, texts in systems.items()
        if name not in shared
    }
    return {name: by_run[0][name] for name in shared} | own


def _metrics(
    key: tuple[str, str], runs: Sequence[Run], segments: Sequence[Sequence[Segment]], config: EvaluateConfig,
    tell: Callable[[str], object],
) -> list[Metric]:  # fmt: skip
    described = [run.entries[key]["metrics"] for run in runs]
    names = dict.fromkeys(name for run in runs for name in main_metrics(run.entries[key]))
    wanted = config.metrics or [name for name in names if is_lexical(name) or all(name in one for one in described)]
    if not wanted:
        raise UserError(f"{' '.join(key)}: no metric that all runs have; choose one, for example --metric chrf")
    for name in () if config.metrics else names:
        if name not in wanted:
            tell(f"{name} on {' '.join(key)} is left out: not every run has scores of this model")
    tgt_lang, found = runs[0].entries[key]["tgt_lang"], list[Metric]()
    for spec in wanted:
        is_known = not is_lexical(spec) and all(spec in one for one in described)
        found.append(
            _known_scores(spec, runs, segments, described) if is_known else load_metric(spec, tgt_lang, config.comet)
        )
    return found


def _known_scores(
    name: str, runs: Sequence[Run], segments: Sequence[Sequence[Segment]], described: Sequence[Mapping[str, Any]]
) -> KnownScores:
    signatures = {one[name]["signature"] for one in described}
    if len(signatures) > 1:
        raise UserError(
            f"{name}: {' and '.join(str(run.folder) for run in runs)} have it by different signatures "
            f"({'; '.join(sorted(signatures))}); leave it out with --metric, or evaluate again"
        )
    scores = {
        (segment.id, candidate.text): ScoreWithSpans(candidate.scores[name], candidate.errors.get(name))
        for of_run in segments
        for segment in of_run
        for candidate in segment.candidates
    }
    return KnownScores(name, scores, described[0][name])
