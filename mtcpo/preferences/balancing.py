"""Drop triplets for what all of them have in common: a length bias, and more of a language pair than wanted.

Both need all triplets before the first decision. They decide on a few numbers of each: 18 bytes of memory a triplet,
and as much again while they are sorted. The triplets themselves wait in one temporary file, which is read once.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtcpo.data.records import Triplet, triplet_from_json, triplet_to_json
from mtcpo.preferences.spill import Spool, hash_of

# One byte a triplet.
KEPT, UNBALANCED, OVER_CAP = range(3)
DROP_REASONS = {UNBALANCED: "length_balance", OVER_CAP: "language_cap"}


def length_log_ratio(triplet: Triplet) -> float:
    """Return ln(characters of chosen / characters of rejected); 0 means equal length."""
    return math.log(len(triplet.chosen.strip()) / len(triplet.rejected.strip()))


def drop_surplus(
    triplets: Iterable[Triplet], balance: bool, cap: int | None, seed: int, dropped: Counter[str], folder: Path
) -> Iterator[Triplet]:
    """Yield the triplets that stay, in order; the others are counted in `dropped`, by reason.

    balance: drop until chosen and rejected are equally long on average. cap: of what is left, keep at most so many of
    each language pair, drawn by `seed`. folder: where the temporary file lies.
    """
    if not balance and cap is None:
        yield from triplets
        return
    decisions = Decisions(balance, cap, seed)
    with closing(Spool(folder)) as spool:
        for triplet in triplets:
            decisions.add(triplet)
            spool.write(triplet_to_json(triplet))
        for number, (decision, line) in enumerate(zip(decisions.result(), spool.lines(), strict=True), start=1):
            if decision == KEPT:
                yield triplet_from_json(json.loads(line), f"triplet {number}")
            else:
                dropped[DROP_REASONS[decision]] += 1


class Decisions:
    """Which of N triplets stay, decided on numbers alone. Settings as of `drop_surplus`."""

    def __init__(self, balance: bool, cap: int | None, seed: int) -> None:
        self._balance, self._cap, self._seed = balance, cap, seed
        self._log_ratios = array("d")
        self._lots = array("Q")
        self._languages = array("H")
        self._language_numbers: dict[tuple[str, str], int] = {}

    def add(self, triplet: Triplet) -> None:
        """Note the numbers of the next triplet."""
        if self._balance:
            self._log_ratios.append(length_log_ratio(triplet))
        if self._cap is not None:
            pair = triplet.src_lang, triplet.tgt_lang
            self._languages.append(self._language_numbers.setdefault(pair, len(self._language_numbers)))
            self._lots.append(lot_of(triplet, self._seed))

    def result(self) -> bytearray:
        """Return KEPT, UNBALANCED or OVER_CAP for each triplet, (N,)."""
        decisions = bytearray(max(len(self._log_ratios), len(self._lots)))
        for place in unbalanced(self._log_ratios):
            decisions[place] = UNBALANCED
        # After balancing, so that the cap counts what is left, and none of its draws is dropped again.
        if self._cap is not None and decisions:
            self._apply_cap(np.frombuffer(decisions, dtype=np.uint8), self._cap)
        return decisions

    def _apply_cap(self, decisions: NDArray[np.uint8], cap: int) -> None:
        lots = np.frombuffer(self._lots, dtype=np.uint64)
        languages = np.frombuffer(self._languages, dtype=np.uint16)
        for number in self._language_numbers.values():
            candidates = (decisions == KEPT) & (languages == number)
            drawn_from = lots[candidates]
            if len(drawn_from) > cap:
                # Equal lots are equal triplets, which stay together: the cap may then be passed by one.
                drawn_from.partition(cap - 1)
                decisions[candidates & (lots > drawn_from[cap - 1])] = OVER_CAP


def lot_of(triplet: Triplet, seed: int) -> int:
    """Return the number that a cap draws a triplet by, 64 bits: the lowest of a language pair are kept.

    It depends on nothing but the triplet and the seed, so that more data changes as few of the others as can be.
    """
    parts = str(seed), triplet.id, triplet.source, triplet.chosen, triplet.rejected
    return int.from_bytes(hash_of(*parts)[:8], "big")


def unbalanced(log_ratios: array[float]) -> Iterator[int]:
    """Yield which pairs to drop so that the mean of the others' log length ratios is as near to zero as can be.

    The most extreme ratios of the heavier side go first, so that few pairs go; among equals the first to come. (N,).
    """
    if not log_ratios:
        return
    total = math.fsum(log_ratios)
    ratios = np.frombuffer(log_ratios)
    # Only the heavier side is sorted, with as few copies as can be: there may be millions.
    places = np.flatnonzero(ratios > 0 if total > 0 else ratios < 0).astype(np.uint32)
    keys = ratios[places]
    np.abs(keys, out=keys)
    np.negative(keys, out=keys)  # ascending then means the most extreme first, and equal ones in their order
    order = np.argsort(keys, kind="stable")
    excess = abs(total)
    for index in order:
        # Dropping a ratio of more than twice the excess would leave more excess on the other side.
        if -keys[index] < 2 * excess:
            yield int(places[index])
            excess += float(keys[index])
