"""Decoding by minimum Bayes risk: of a source's candidates, the one with the highest expected utility.

The utility is the score by a metric with the candidates themselves as references: Eikema and Aziz 2022 (arXiv
2108.04718). With samples cut off at epsilon: Freitag et al. 2023 (arXiv 2305.09860).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.processes import this_process
from mtcpo.data.records import Candidate, Segment
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.mbr import MbrMetric
from mtcpo.metrics.registry import MetricObject, is_lexical, load_metric, metric_name
from mtcpo.translation.config import TranslateConfig

EXACT_CANDIDATES = 64
"""Candidates up to which all pairs are scored. Above it, utilities that can compare a candidate with the mean of all
references, once instead of once per reference."""

PAIRS_AT_ONCE = 131_072
"""Pairs of candidates scored together: 512 sources with 16 candidates. A neural metric sorts their texts by length."""


@dataclass(frozen=True, slots=True)
class MbrChooser:
    """The expected utilities of a configuration's `mbr`, by target language."""

    metrics: dict[str, MbrMetric]
    sources_at_once: int

    def choose(self, segments: Sequence[Segment], made: Sequence[Sequence[Candidate]]) -> list[Candidate]:
        """Return the best candidate of each segment, the first of several.

        made: new candidates of each segment; those in the segment itself are ignored.

        Raises:
            UserError: a utility is not a number.
        """
        winners: dict[int, Candidate] = {}
        for language, metric in self.metrics.items():
            mine = [row for row, segment in enumerate(segments) if segment.tgt_lang == language]
            for start in range(0, len(mine), self.sources_at_once):
                rows = mine[start : start + self.sources_at_once]
                choices = [replace(segments[row], candidates=tuple(made[row])) for row in rows]
                for row, choice, utilities in zip(rows, choices, metric.score_candidates(choices), strict=True):
                    winners[row] = _best(choice, utilities, metric.utility.name)
        return [winners[row] for row in range(len(segments))]


def _best(segment: Segment, utilities: Sequence[float], name: str) -> Candidate:
    if not all(map(math.isfinite, utilities)):
        raise UserError(f"segment {segment.id}: {name} is not finite for one of its candidates; choose another --mbr")
    return segment.candidates[utilities.index(max(utilities))]


def open_mbr(config: TranslateConfig, languages: Sequence[str]) -> MbrChooser | None:
    """Load the metric of `config.mbr` and its model for target languages; None if there is no `mbr`.

    It stays in memory, so that the next call of the same process is quick.

    Raises:
        UserError: the metric cannot be loaded.
    """
    if config.mbr is None:
        return None
    metrics = {language: _open_utility(*_arguments(config, language)) for language in dict.fromkeys(languages)}
    return MbrChooser(metrics, max(1, PAIRS_AT_ONCE // config.num_candidates**2))


def describe_mbr(config: TranslateConfig) -> str:
    """Return for example "MBR with chrf over 16 candidates"; config: with `mbr`."""
    assert config.mbr is not None
    text = f"MBR with {metric_name(config.mbr)} over {config.num_candidates} candidates"
    return f"{text}, references aggregated" if _is_aggregated(config) else text


def _is_aggregated(config: TranslateConfig) -> bool:
    return config.num_candidates > EXACT_CANDIDATES and load_utility(config, "und").aggregate


def check_mbr(config: TranslateConfig, language: str) -> None:
    """Load the metric of `config.mbr`, if there is one, without its model; errors as `open_mbr`."""
    if config.mbr is not None:
        load_utility(config, language)


def load_utility(config: TranslateConfig, language: str) -> MbrMetric:
    """Return the metric that chooses, without its model, which is loaded when it is needed; errors as `open_mbr`."""
    return _load_utility(*_arguments(config, language))


Arguments = tuple[str, str, CometConfig, bool, int]
"""Spec, language, how COMET is run, whether to aggregate, and the identity of a metric that is a Python object."""


def _arguments(config: TranslateConfig, language: str) -> Arguments:
    assert config.mbr is not None
    comet = config.comet
    if this_process().count > 1 and comet.processes is None:
        # Each process that translates scores for itself; otherwise each would start one for every GPU.
        comet = comet.model_copy(update={"processes": 1})
    aggregate = config.num_candidates > EXACT_CANDIDATES
    # In a notebook, another function may have the same spec.
    identity = id(config.mbr.metric) if isinstance(config.mbr, MetricObject) else 0
    return config.mbr, language if is_lexical(config.mbr) else "und", comet, aggregate, identity


# Without the score cache: samples are hardly ever scored twice, and their pairs are many.
@lru_cache(maxsize=16)
def _load_utility(spec: str, language: str, comet: CometConfig, aggregate: bool, identity: int) -> MbrMetric:
    utility = load_metric(spec, language, comet)
    return MbrMetric(utility, aggregate=aggregate and utility.can_aggregate)


# Apart from loading: what only reports a signature needs no model.
@lru_cache(maxsize=16)
def _open_utility(*arguments: Any) -> MbrMetric:
    metric = _load_utility(*arguments)
    metric.open()
    return metric
