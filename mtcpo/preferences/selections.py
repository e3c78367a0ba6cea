"""The catalogue of selections: which candidates of a source are paired, each strategy a pure function of a pool.

To add a selection, write a function and add a row to SELECTIONS. Custom selections need no row: `user_selection`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.preferences.combining import moments_of

ROUNDING = 1e-9
"""Values that differ by less are a tie: metrics that cancel each other leave about 1e-17, which is no preference."""

Pair = tuple[int, int]
"""(chosen, rejected): indices into a pool's candidates."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What a selection chooses from: the K >= 2 candidates of one source that passed the filters, with their values.

    segment: with all its candidates, including those that were filtered out. candidates: (K,), in input order. values:
    (K,), the combined score of each, or its human verdict; higher is better.
    reference: index of the candidate that every pair must choose (`reference = "always"`), else None.
    """

    segment: Segment
    candidates: tuple[Candidate, ...]
    values: tuple[float, ...]
    reference: int | None = None

    @property
    def best(self) -> int:
        """Index of the candidate to choose: the reference if it must be chosen, else the first of the best."""
        return self.values.index(max(self.values)) if self.reference is None else self.reference

    def others(self, chosen: int) -> list[int]:
        """Return the indices of all candidates but `chosen`, in order."""
        indices = list(range(len(self.values)))
        indices.remove(chosen)
        return indices


SelectionFunction = Callable[[Pool], Iterable[Pair]]
"""pool -> pairs (chosen, rejected); none if no pair is worth training on."""


def best_worst(pool: Pool) -> list[Pair]:
    """Pair the best with the worst, as CPO does (arXiv 2401.08417)."""
    return [(pool.best, min(pool.others(pool.best), key=pool.values.__getitem__))]


def best_vs_rest(pool: Pool) -> list[Pair]:
    """Pair the best with each of the others."""
    return [(pool.best, index) for index in pool.others(pool.best)]


def all_pairs(pool: Pool) -> list[Pair]:
    """Pair each candidate with each worse one; with `min_margin`, this is RS-DPO (arXiv 2402.10038)."""
    if pool.reference is not None:
        # The reference against all: pairs that contradict the values are dropped later, and counted.
        return best_vs_rest(pool)
    pairs = []
    # In the order of the candidates, so that the same input always gives the same file.
    for chosen, value in enumerate(pool.values):
        worse = (index for index in pool.others(chosen) if value - pool.values[index] > ROUNDING)
        pairs += [(chosen, rejected) for rejected in worse]
    return pairs


def mu_2sigma(pool: Pool) -> list[Pair]:
    """Pair the best with the one nearest to mean - 2 * deviation of the values (arXiv 2502.16825).

    The more candidates are sampled, the worse the minimum gets, and the less the model learns from it.
    """
    moments = moments_of(pool.values)
    # With few candidates, none may be that low: the nearest is then the worst, as in best_worst.
    target = moments.mean - 2 * moments.deviation
    return [(pool.best, min(pool.others(pool.best), key=lambda index: abs(pool.values[index] - target)))]


def confidence(pool: Pool) -> list[Pair]:
    """Take the pair that differs most in value and that the model ranks most wrongly, after CRPO (arXiv 2501.13927).

    A pair's gain is (z_w - z_l) - (c_w - c_l), with values z and the model's log-probabilities c. Both are standardized
    over the candidates of the source, so that the scale of neither decides; that standardization is ours.

    Raises:
        UserError: a candidate has no log-probability.
    """
    # Only pairs ordered by value: the model's order may choose among them, but not contradict them.
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
                f"segment {pool.segment.id}: {candidate.system} has no logprob, which select 'confidence' needs for "
                "every candidate (nats summed over tokens, from the model to be trained); mtcpo translate --logprobs "
                "writes it"
            )
        logprobs.append(candidate.logprob)
    return logprobs


@dataclass(frozen=True, slots=True)
class Selection:
    """A row of SELECTIONS: a strategy to choose pairs.

    select: the function. title: what it pairs, and paper: its source, both for the docs. needs_logprobs: whether
    candidates need log-probabilities by the model to be trained; if so, references cannot take part.
    """

    select: Callable[[Pool], list[Pair]]
    title: str
    paper: str = ""
    needs_logprobs: bool = False

    @property
    def needs(self) -> str:
        """What candidates need, in words, for the docs."""
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
        "the pair whose gap in value most exceeds the gap that the model gives it",
        "after CRPO, arXiv 2501.13927",
        needs_logprobs=True,
    ),
}


def needs_logprobs(select: str | SelectionFunction) -> bool:
    """Whether a selection needs log-probabilities; False for custom selections, of which it is not known."""
    return isinstance(select, str) and select in SELECTIONS and SELECTIONS[select].needs_logprobs
