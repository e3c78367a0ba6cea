"""The metrics: what is known of each without loading it, and how it is loaded.

A metric is named by a spec: `chrf`, or `comet:PATH_OR_HUB_NAME`. The part before the colon is its name, the key
in `scores` and in every report. Candidates can also be scored by `mbr:UTILITY`, against each other, and by a function
of the user's own, `NAME=python:package.module:function`; neither has a score of a corpus.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from mtcpo.core.config import as_value_error, resolve_path
from mtcpo.core.errors import UserError, choose
from mtcpo.core.user_code import check_code_allowed, is_user_code
from mtcpo.metrics.base import CandidateMetric, Metric
from mtcpo.metrics.comet.config import CometConfig


@dataclass(frozen=True, slots=True)
class MetricKind:
    """What is known of a metric before it is loaded.

    checkpoint: the hub's model where the spec names none; None for the metrics that are no model. scale: metrics of one
    scale may be averaged as they are. is_code: a function of the user's own.
    """

    scale: str
    needs_references: bool
    higher_is_better: bool = True
    checkpoint: str | None = None
    is_code: bool = False

    @property
    def is_formula(self) -> bool:
        """Whether it is arithmetic of ours, which runs in worker processes and needs no cache."""
        return self.checkpoint is None and not self.is_code


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


MBR = "mbr"
"""`mbr:UTILITY` scores each candidate against the others: minimum Bayes risk."""


def _resolve_checkpoint(spec: Any, info: ValidationInfo) -> Any:
    """Make a relative checkpoint path in a recipe start at the recipe, as every other path there does."""
    if not isinstance(spec, str) or ":" not in spec:
        return spec
    code = _code_path(spec)
    if code is not None:
        return _allowed(spec, code, info)
    name, _, location = spec.partition(":")
    if name == MBR:
        return f"{name}:{_resolve_checkpoint(type(spec)(location), info)}"
    return f"{name}:{resolve_path(type(spec)(location), info)}" if location else spec


def _allowed(spec: str, code: str, info: ValidationInfo) -> str:
    """Refuse a function of the user's own unless the command line allows code: a recipe alone runs none."""
    with as_value_error():
        check_code_allowed(code, bool(info.context and info.context.get("allow_code")))
    return spec


MetricSpec = Annotated[str, BeforeValidator(_resolve_checkpoint)]
"""A metric's spec in a configuration."""


def metric_name(spec: str) -> str:
    """Return the name of a metric: its spec up to the colon, or up to the equals sign of a function of the user's."""
    return re.split("[:=]", spec, maxsplit=1)[0]


Wrapper = Callable[[CandidateMetric, bool], CandidateMetric]
"""From a metric, and whether its scores depend on the references, to what stands in for it."""


def is_computed(spec: str) -> bool:
    """Whether a spec is a metric that we compute; else it can only be the name of scores that are there already."""
    return metric_name(spec) in METRICS or spec.startswith(f"{MBR}:") or _code_path(spec) is not None


def _code_path(spec: str) -> str | None:
    """Return what follows NAME= where a spec is a function of the user's own."""
    path = spec.removeprefix(f"{metric_name(spec)}=")
    return path if is_user_code(path) else None


def candidate_kind(spec: str) -> MetricKind:
    """Return what is known of a metric of candidates: one of METRICS, `mbr:UTILITY`, or a function of the user's.

    Raises:
        UserError: no such metric, a formula with a checkpoint, or a function under the name of a metric.
    """
    if _code_path(spec) is not None:
        if metric_name(spec) in (*METRICS, MBR, ""):
            raise UserError(f"metric {spec!r}: a function of yours needs a name that no metric has")
        return MetricKind("unknown", needs_references=False, is_code=True)
    if spec.startswith(f"{MBR}:"):
        return replace(metric_kind(spec.removeprefix(f"{MBR}:")), needs_references=False, higher_is_better=True)
    return metric_kind(spec)


def depends_on_set(spec: str) -> bool:
    """Whether a candidate's score depends on which other candidates there are."""
    return spec.startswith(f"{MBR}:")


def load_candidate_metric(spec: str, tgt_lang: str, keep: Wrapper, comet: CometConfig | None = None) -> CandidateMetric:
    """Load the metric of candidates that `spec` names; a function of the user's own is imported.

    keep: what is put around a metric that is no formula, such as a cache. comet: how COMET models are run.

    Raises:
        UserError: as `load_metric`, or the function cannot be imported.
    """
    kind, path = candidate_kind(spec), _code_path(spec)
    if path is not None:
        from mtcpo.metrics.user import load_user_metric

        return keep(load_user_metric(metric_name(spec), path), True)
    if depends_on_set(spec):
        from mtcpo.metrics.mbr import MbrMetric

        return MbrMetric(load_candidate_metric(spec.removeprefix(f"{MBR}:"), tgt_lang, keep, comet))
    metric = load_metric(spec, tgt_lang, comet)
    return metric if kind.is_formula else keep(metric, kind.needs_references)


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


def load_metric(spec: str, tgt_lang: str, comet: CometConfig | None = None) -> Metric:
    """Load the metric that `spec` names; BLEU's tokenizer follows the target language.

    comet: how COMET models are run; None: as its defaults say.

    Raises:
        UserError: an unknown name, a checkpoint that cannot be loaded, or a package that is not installed.
    """
    kind = metric_kind(spec)
    name, _, location = spec.partition(":")
    if kind.checkpoint is None:
        from mtcpo.metrics.lexical import lexical_metric

        return lexical_metric(name, tgt_lang)
    from mtcpo.metrics.comet.metric import load_comet

    return load_comet(name, location or kind.checkpoint, comet)
