"""The catalogue of metrics: descriptions that need no loading, and the step from a spec to a loaded metric.

A spec names a metric on the command line and in recipes. Its part before the colon or equals sign is the metric's
name: the key in `scores` and in every report.

    chrf                              one of METRICS
    comet:PATH_OR_HUB_NAME            a neural metric with another checkpoint
    mbr:chrf                          expected utility of a candidate against the others; for candidates only
    NAME=python:package.module:name   custom Python code, see `mtcpo.metrics.user`

To add a metric, write a module and add a row with its loader to METRICS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mtcpo.core.errors import UserError, choose
from mtcpo.core.user_code import is_user_code, user_code_file

if TYPE_CHECKING:
    from mtcpo.metrics.base import CandidateMetric, Metric
    from mtcpo.metrics.comet.config import CometConfig


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """The arguments of a loader. checkpoint: from the spec, else the row's default; "" for metrics without one."""

    name: str
    checkpoint: str
    tgt_lang: str
    comet: CometConfig | None = None


@dataclass(frozen=True, slots=True)
class MetricKind:
    """A row of METRICS.

    title, paper, help: name in tables, publication, and its use in one sentence. scale: metrics on the same scale may
    be averaged without standardizing. is_lexical: string arithmetic without a model, which runs in worker processes,
    may depend on the target language, and is not cached. checkpoint: the default model on the hub; "" for a metric
    that has none. higher_is_better: of the score as printed.
    """

    title: str
    loader: Callable[[LoadRequest], Metric]
    scale: str
    needs_references: bool = True
    is_lexical: bool = False
    higher_is_better: bool = True
    checkpoint: str = ""
    paper: str = ""
    help: str = ""


# Loaders import inside, so that `mtcpo --help` waits for neither sacreBLEU nor torch.


def _load_bleu(request: LoadRequest) -> Metric:
    from mtcpo.metrics.lexical import bleu

    return bleu(request.tgt_lang)


def _load_spbleu(request: LoadRequest) -> Metric:
    from mtcpo.metrics.lexical import spbleu

    return spbleu(request.tgt_lang)


def _load_chrf(request: LoadRequest) -> Metric:
    from mtcpo.metrics.lexical import chrf

    return chrf(request.tgt_lang)


def _load_chrf_plus_plus(request: LoadRequest) -> Metric:
    from mtcpo.metrics.lexical import chrf_plus_plus

    return chrf_plus_plus(request.tgt_lang)


def _load_ter(request: LoadRequest) -> Metric:
    from mtcpo.metrics.lexical import ter

    return ter(request.tgt_lang)


def _load_comet(request: LoadRequest) -> Metric:
    from mtcpo.metrics.comet.metric import load_comet

    return load_comet(request.name, request.checkpoint, request.comet)


METRICS = {
    "bleu": MetricKind(
        title="BLEU",
        loader=_load_bleu,
        scale="0 to 100",
        is_lexical=True,
        paper="Papineni et al. 2002",
        help="word n-gram precision, tokenized as by mteval or for the target language",
    ),
    "spbleu": MetricKind(
        title="spBLEU",
        loader=_load_spbleu,
        scale="0 to 100",
        is_lexical=True,
        paper="Goyal et al. 2022",
        help="BLEU over the SentencePiece pieces of FLORES-200",
    ),
    "chrf": MetricKind(
        title="chrF",
        loader=_load_chrf,
        scale="0 to 100",
        is_lexical=True,
        paper="Popović 2015",
        help="F-score of character n-grams; suits languages with rich morphology",
    ),
    "chrf++": MetricKind(
        title="chrF++",
        loader=_load_chrf_plus_plus,
        scale="0 to 100",
        is_lexical=True,
        paper="Popović 2017",
        help="chrF with word unigrams and bigrams added",
    ),
    "ter": MetricKind(
        title="TER",
        loader=_load_ter,
        scale="0 to 100",
        is_lexical=True,
        higher_is_better=False,
        paper="Snover et al. 2006",
        help="edits per word of the reference; lower is better",
    ),
    "comet": MetricKind(
        title="COMET",
        loader=_load_comet,
        checkpoint="Unbabel/wmt22-comet-da",
        scale="0 to 1",
        paper="Rei et al. 2022a",
        help="regression on human direct assessments, from source, translation and reference",
    ),
    "cometkiwi": MetricKind(
        title="CometKiwi",
        loader=_load_comet,
        checkpoint="Unbabel/wmt22-cometkiwi-da",
        scale="0 to 1",
        needs_references=False,
        paper="Rei et al. 2022b",
        help="quality estimation: like COMET, without a reference",
    ),
    "xcomet": MetricKind(
        title="XCOMET",
        loader=_load_comet,
        checkpoint="Unbabel/XCOMET-XL",
        scale="0 to 1",
        paper="Guerreiro et al. 2024",
        help="score and error spans with severities",
    ),
}


class MetricObject(str):
    """The spec `NAME=python:module:name` of a metric that was passed as a Python object, with the object itself.

    As a str, it can be used like any spec; loading it returns the object.
    """

    metric: Metric

    @classmethod
    def of(cls, metric: Metric, path: str) -> MetricObject:
        """Return the spec of a metric. path: `python:module:name` of its code."""
        spec = cls(f"{metric.name}={path}")
        spec.metric = metric
        return spec


MBR = "mbr"
"""`mbr:UTILITY` scores each candidate against the others: minimum Bayes risk."""

Wrapper = Callable[["Metric"], "CandidateMetric"]
"""loaded metric -> its replacement, for example one with a cache."""


def metric_name(spec: str) -> str:
    """Return the name of a metric: its spec up to the first colon or equals sign."""
    return re.split("[:=]", spec, maxsplit=1)[0]


def code_path(spec: str) -> str | None:
    """Return `python:module:name` from a custom metric's spec, None for other specs."""
    path = spec.removeprefix(f"{metric_name(spec)}=")
    return path if is_user_code(path) else None


def code_files(specs: Iterable[str]) -> list[str]:
    """Return the files of the custom metrics among `specs`: if their code changes, scores do.

    Raises:
        UserError: There is no such module.
    """
    # The utility of `mbr:NAME=python:...` may be custom code too.
    paths = [code_path(spec.removeprefix(f"{MBR}:")) for spec in specs]
    return [user_code_file(path) for path in paths if path is not None]


def is_computed(spec: str) -> bool:
    """Whether a spec is a metric that can be computed; otherwise it may be the name of scores in the input."""
    return metric_name(spec) in METRICS or depends_on_set(spec) or code_path(spec) is not None


def depends_on_set(spec: str) -> bool:
    """Whether a candidate's score depends on which other candidates there are."""
    return spec.startswith(f"{MBR}:")


def is_lexical(spec: str) -> bool:
    """Whether a spec, or the name of a metric in a report, is one of the lexical METRICS."""
    return spec in METRICS and METRICS[spec].is_lexical


def metric_kind(spec: str) -> MetricKind:
    """Return the row of a corpus metric, without loading it.

    Raises:
        UserError: There is no such metric, a lexical metric has a checkpoint, or a custom metric has the name of a
            built-in one.
    """
    name, colon, checkpoint = spec.partition(":")
    if code_path(spec) is not None:
        return _user_kind(spec)
    if name not in METRICS:
        raise choose("metric", name, METRICS)
    kind = METRICS[name]
    if colon and not (kind.checkpoint and checkpoint):
        example = f"{name}:PATH_OR_HUB_NAME" if kind.checkpoint else "comet:PATH"
        raise UserError(
            f"metric {spec!r}: only neural metrics take a checkpoint, written like {example}; else write {name}"
        )
    return kind


def _user_kind(spec: str) -> MetricKind:
    name = metric_name(spec)
    # Scores are stored under the name: two metrics of the same name could not be distinguished in any file.
    if name in (*METRICS, MBR, ""):
        raise UserError(f"metric {spec!r}: your own metric needs a name that no metric of mtcpo has")

    def load(request: LoadRequest) -> Metric:
        from mtcpo.metrics.user import load_user_metric

        return spec.metric if isinstance(spec, MetricObject) else load_user_metric(name, str(code_path(spec)))

    return MetricKind(name, load, "unknown", needs_references=False)


def candidate_kind(spec: str) -> MetricKind:
    """Return the row of a candidate metric, without loading it; `mbr:UTILITY` included.

    Raises:
        UserError: As `metric_kind`.
    """
    if not depends_on_set(spec):
        return metric_kind(spec)
    # Candidates' TER scores are negated, so a higher expected utility is better there too.
    return replace(metric_kind(spec.removeprefix(f"{MBR}:")), needs_references=False, higher_is_better=True)


def is_higher_better(spec: str) -> bool:
    """Whether a higher corpus score is better; for a custom metric, this imports its code."""
    is_users = code_path(spec) is not None
    return load_metric(spec, "und").higher_is_better if is_users else metric_kind(spec).higher_is_better


def load_metric(spec: str, tgt_lang: str, comet: CometConfig | None = None) -> Metric:
    """Load a metric of corpora.

    Args:
        spec: The metric's spec.
        tgt_lang: BCP-47; BLEU's tokenizer depends on it.
        comet: How COMET models are run; None: the defaults of CometConfig.

    Raises:
        UserError: Unknown name, a checkpoint that cannot be loaded, a package that is not installed, or custom code
            that cannot be imported.
    """
    kind = metric_kind(spec)
    name, _, checkpoint = spec.partition(":")
    return kind.loader(LoadRequest(name, checkpoint or kind.checkpoint, tgt_lang, comet))


def load_candidate_metric(
    spec: str, tgt_lang: str, comet: CometConfig | None = None, wrap: Wrapper | None = None
) -> CandidateMetric:
    """Load a metric of candidates; arguments and errors as `load_metric`.

    wrap: applied to metrics that are not lexical, and to such a utility of `mbr`.
    """
    if depends_on_set(spec):
        from mtcpo.metrics.mbr import MbrMetric

        return MbrMetric(load_candidate_metric(spec.removeprefix(f"{MBR}:"), tgt_lang, comet, wrap))
    metric = load_metric(spec, tgt_lang, comet)
    return metric if wrap is None or metric.is_lexical else wrap(metric)
