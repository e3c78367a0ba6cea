"""The catalogue of selections: which candidates of a source are paired, each strategy a pure function of a pool.

A new selection is one function and one row of SELECTIONS. A user's own needs no row: see `user_selection`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.preferences.combining import moments_of

ROUNDING = 1e-9
"""Values that differ by less are a tie: metrics that cancel each other out leave about 1e-17, and no preference."""

Pair = tuple[int, int]
"""Indices of the chosen and of the rejected among the candidates of a pool."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What a selection chooses from: K >= 2 candidates of one source, filtered, each with its value.

    segment: the source with all its candidates, those that the filters left out included. candidates: (K,), in the
    order of the input. values: (K,), the combined score of each, or its human verdict; higher is better.
    reference: index of the candidate that every pair must choose (`reference = "always"`), else None.
    """

    segment: Segment
    candidates: tuple[Candidate, ...]
    values: tuple[float, ...]
    reference: int | None = None

    @property
    def best(self) -> int:
        """Index of the one to choose: the reference where it must be chosen, else the first of the best."""
        return self.values.index(max(self.values)) if self.reference is None else self.reference

    def others(self, chosen: int) -> list[int]:
        """Return the indices of all but one, in order."""
        indices = list(range(len(self.values)))
        indices.remove(chosen)
        return indices


SelectionFunction = Callable[[Pool], Iterable[Pair]]
"""pool -> pairs (chosen, rejected), none where no pair is worth training on."""


def best_worst(pool: Pool) -> list[Pair]:
    """Pair the best with the worst, as CPO does (arXiv 2401.08417)."""
    return [(pool.best, min(pool.others(pool.best), key=pool.values.__getitem__))]


def best_vs_rest(pool: Pool) -> list[Pair]:
    """Pair the best with each of the others."""
    return [(pool.best, index) for index in pool.others(pool.best)]


def all_pairs(pool: Pool) -> list[Pair]:
    """Pair each candidate with each worse one; `min_margin` is then the least gap of RS-DPO (arXiv 2402.10038)."""
    if pool.reference is not None:
        # The reference against all: where the values say otherwise, the pair is dropped later, and counted.
        return best_vs_rest(pool)
    pairs = []
    # In the order of the candidates, so that the same input always gives the same file.
    for chosen, value in enumerate(pool.values):
        worse = (index for index in pool.others(chosen) if value - pool.values[index] > ROUNDING)
        pairs += [(chosen, rejected) for rejected in worse]
    return pairs


def mu_2sigma(pool: Pool) -> list[Pair]:
    """Pair the best with the one nearest to mean - 2 * deviation of the values (arXiv 2502.16825).

    The minimum is an outlier that gets worse the more candidates are sampled, and that teaches less and less.
    """
    moments = moments_of(pool.values)
    # Few candidates may have none so low; then it is the worst, as in best_worst.
    target = moments.mean - 2 * moments.deviation
    return [(pool.best, min(pool.others(pool.best), key=lambda index: abs(pool.values[index] - target)))]


def confidence(pool: Pool) -> list[Pair]:
    """Take the pair that is clearest by value and that the model ranks most wrongly, after CRPO (arXiv 2501.13927).

    A pair's gain is (z_w - z_l) - (c_w - c_l), with values z and the model's log-probabilities c. Both are standardized
    over the candidates of the source, so that the scale of neither decides; that standardization is ours.

    Raises:
        UserError: a candidate has no log-probability.
    """
    # Only pairs that the values order may be chosen: the model's order decides among them, not against them.
    pairs, logprobs = all_pairs(pool), _logprobs(pool)
    if not pairs:
        return []
    standard_values = moments_of(pool.values).standardize(pool.values)
    standard_logprobs = moments_of(logprobs).standardize(logprobs)
    gains = list(map(operator.sub, standard_values, standard_logprobs))
    return [max(pairs, key=lambda pair: gains[pair[0]] - gains[pair[1]])]


def _logprobs(pool: Pool) -> list[float]:
    logprobs = []
    for candidate in pool.candidates:
        if candidate.logprob is None:
            raise UserError(
                f"segment {pool.segment.id}: {candidate.system} has no logprob, which select 'confidence' needs of "
                "every candidate: nats summed over tokens, by the model to be trained; mtcpo translate --logprobs "
                "writes it"
            )
        logprobs.append(candidate.logprob)
    return logprobs


@dataclass(frozen=True, slots=True)
class Selection:
    """A strategy to choose pairs.

    select: the function. title: what it pairs, and paper: where it is from, both for the docs. needs_logprobs: whether
    candidates need log-probabilities by the model to be trained beside their scores; then references cannot take part.
    """

    select: Callable[[Pool], list[Pair]]
    title: str
    paper: str = ""
    needs_logprobs: bool = False

    @property
    def needs(self) -> str:
        """What candidates need, in words."""
        return "scores and log-probabilities" if self.needs_logprobs else "scores"


# The first is the default.
SELECTIONS = {
    "best-worst": Selection(best_worst, "the best and the worst", "CPO, arXiv 2401.08417"),
    "best-vs-rest": Selection(best_vs_rest, "the best with each of the others"),
    "all-pairs": Selection(
        all_pairs, "each candidate with every worse one; min_margin sets the smallest gap", "RS-DPO, arXiv 2402.10038"
    ),
    "mu-2sigma": Selection(
        mu_2sigma,
        "the best, and the one closest to two standard deviations below the mean",
        "arXiv 2502.16825: the worst candidate degrades as their number grows",
    ),
    "confidence": Selection(
        confidence,
        "the one pair that is clearest by value and that the model ranks most wrongly",
        "after CRPO, arXiv 2501.13927",
        needs_logprobs=True,
    ),
}


def needs_logprobs(select: str | SelectionFunction) -> bool:
    """Return whether a selection of the catalogue needs log-probabilities; of a user's own that is not known."""
    return isinstance(select, str) and select in SELECTIONS and SELECTIONS[select].needs_logprobs
