"""The metrics: what is known of each without loading it, and how it is loaded.

A metric is named by a spec: `chrf`, or `comet:PATH_OR_HUB_NAME`. The part before the colon is its name, the key
in `scores` and in every report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import BeforeValidator, ValidationInfo

from mtcpo.config import resolve_path
from mtcpo.errors import UserError, choose

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mtcpo.records import Segment


class Metric(Protocol):
    """A loaded metric. Dimensions: N segments, K additive statistics of a segment.

    higher_is_better speaks of the score as printed, so it is False for ter; what `score_candidates` returns and what
    records store is always higher-is-better.
    """

    @property
    def name(self) -> str:
        """Key in `scores` and in evaluation.json."""

    @property
    def needs_references(self) -> bool:
        """Whether segments without references are refused."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher printed score is better."""

    @property
    def percent(self) -> bool:
        """Whether scores run from 0 to 100 (ter may exceed it) and not about from 0 to 1."""

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return what a reader needs to compute the same numbers; -1 references: their number varies.

        sentence: of the scores of `score_candidates` and not of the corpus score.
        """

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return scores[segment][candidate], higher is better (ter negated).

        Raises:
            UserError: a segment without references where the metric needs them.
        """

    def statistics(self, hypotheses: Sequence[str], segments: Sequence[Segment]) -> NDArray[np.float64]:
        """Return the additive statistics of each hypothesis against its segment. Shape (N, K)."""

    def corpus_score(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the corpus scores, as printed, of summed statistics. Shape (..., K) -> (...)."""

    def segment_scores(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what `score_candidates` would, of statistics. Shape (N, K) -> (N,)."""


@dataclass(frozen=True, slots=True)
class MetricKind:
    """What is known of a metric before it is loaded.

    checkpoint: the hub's model where the spec names none; None for the metrics that are a formula, which run in
    worker processes. scale: metrics of one scale may be averaged as they are.
    """

    scale: str
    needs_references: bool
    higher_is_better: bool = True
    checkpoint: str | None = None


METRICS = {
    "bleu": MetricKind("0 to 100", needs_references=True),
    "spbleu": MetricKind("0 to 100", needs_references=True),
    "chrf": MetricKind("0 to 100", needs_references=True),
    "chrf++": MetricKind("0 to 100", needs_references=True),
    "ter": MetricKind("0 to 100", needs_references=True, higher_is_better=False),
    "comet": MetricKind("0 to 1", needs_references=True, checkpoint="Unbabel/wmt22-comet-da"),
    "cometkiwi": MetricKind("0 to 1", needs_references=False, checkpoint="Unbabel/wmt22-cometkiwi-da"),
    "xcomet": MetricKind("0 to 1", needs_references=True, checkpoint="Unbabel/XCOMET-XL"),
}


def _resolve_checkpoint(spec: Any, info: ValidationInfo) -> Any:
    """Make a relative checkpoint path in a recipe start at the recipe, as every other path there does."""
    if not isinstance(spec, str) or ":" not in spec:
        return spec
    name, _, location = spec.partition(":")
    return f"{name}:{resolve_path(type(spec)(location), info)}" if location else spec


MetricSpec = Annotated[str, BeforeValidator(_resolve_checkpoint)]
"""A metric's spec in a configuration."""


def metric_name(spec: str) -> str:
    """Return the name of a metric: its spec up to the colon."""
    return spec.partition(":")[0]


def metric_kind(spec: str) -> MetricKind:
    """Return what is known of the metric that `spec` names.

    Raises:
        UserError: no metric has this name, or a formula was given a checkpoint.
    """
    name, colon, checkpoint = spec.partition(":")
    if name not in METRICS:
        raise choose("metric", name, METRICS)
    kind = METRICS[name]
    if colon and (kind.checkpoint is None or not checkpoint):
        example = "comet:PATH" if kind.checkpoint is None else f"{name}:PATH_OR_HUB_NAME"
        raise UserError(
            f"metric {spec!r}: only COMET models take a checkpoint, written like {example}; else write {name}"
        )
    return kind


def load_metric(spec: str, tgt_lang: str) -> Metric:
    """Load the metric that `spec` names; BLEU's tokenizer follows the target language.

    Raises:
        UserError: an unknown name, a checkpoint that cannot be loaded, or a package that is not installed.
    """
    kind = metric_kind(spec)
    name, _, location = spec.partition(":")
    if kind.checkpoint is None:
        from mtcpo.metrics.lexical import lexical_metric

        return lexical_metric(name, tgt_lang)
    from mtcpo.metrics.comet import load_comet

    return load_comet(name, location or kind.checkpoint)


def load_metrics(specs: Sequence[str], tgt_langs: Iterable[str]) -> dict[str, list[Metric]]:
    """Load the metrics for each target language; one that is a model, and no formula, once for all of them.

    Raises:
        UserError: as `load_metric`.
    """
    models = {spec: load_metric(spec, "und") for spec in specs if metric_kind(spec).checkpoint is not None}
    languages = dict.fromkeys(tgt_langs)
    return {lang: [models.get(spec) or load_metric(spec, lang) for spec in specs] for lang in languages}
