"""Drop triplets to balance the whole set: against a length bias, and above the cap of a language pair.

Both must see all triplets before the first decision. They need only a few numbers of each: 18 bytes of memory per
triplet, and as much again for sorting. The triplets themselves wait in a temporary file, which is read once.
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

# What happens to a triplet; stored in one byte each.
KEPT, UNBALANCED, OVER_CAP = range(3)
DROP_REASONS = {UNBALANCED: "length_balance", OVER_CAP: "language_cap"}


def length_log_ratio(triplet: Triplet) -> float:
    """Return ln(characters of chosen / characters of rejected); 0 means equal length."""
    return math.log(len(triplet.chosen.strip()) / len(triplet.rejected.strip()))


def drop_surplus(
    triplets: Iterable[Triplet], balance: bool, cap: int | None, seed: int, dropped: Counter[str], folder: Path
) -> Iterator[Triplet]:
    """Yield the triplets that are kept, in order; the others are counted in `dropped`, by reason.

    balance: drop until chosen and rejected are equally long on average. cap: the most triplets kept of each language
    pair after that, drawn by `seed`. folder: for the temporary file.
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
    """Which of N triplets are kept, decided from a few numbers of each. Settings as in `drop_surplus`."""

    def __init__(self, balance: bool, cap: int | None, seed: int) -> None:
        self._balance, self._cap, self._seed = balance, cap, seed
        self._log_ratios = array("d")
        self._lots = array("Q")
        self._languages = array("H")
        self._language_numbers: dict[tuple[str, str], int] = {}

    def add(self, triplet: Triplet) -> None:
        """Record the numbers of the next triplet."""
        if self._balance:
            self._log_ratios.append(length_log_ratio(triplet))
        if self._cap is not None:
            pair = triplet.src_lang, triplet.tgt_lang
            self._languages.append(self._language_numbers.setdefault(pair, len(self._language_numbers)))
            self._lots.append(lot_of(triplet, self._seed))

    def result(self) -> bytearray:
        """Return KEPT, UNBALANCED or OVER_CAP for each triplet. Shape (N,)."""
        decisions = bytearray(max(len(self._log_ratios), len(self._lots)))
        for place in unbalanced(self._log_ratios):
            decisions[place] = UNBALANCED
        # After balancing, so that the cap counts only what is left.
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
                # Equal lots mean equal triplets, which are kept together: the cap may then be exceeded by one.
                drawn_from.partition(cap - 1)
                decisions[candidates & (lots > drawn_from[cap - 1])] = OVER_CAP


def lot_of(triplet: Triplet, seed: int) -> int:
    """Return a triplet's lot for the cap, 64 bits: the lowest lots of a language pair are kept.

    It depends only on the triplet and the seed, so that additional data changes as few decisions as possible.
    """
    parts = str(seed), triplet.id, triplet.source, triplet.chosen, triplet.rejected
    return int.from_bytes(hash_of(*parts)[:8], "big")


def unbalanced(log_ratios: array[float]) -> Iterator[int]:
    """Yield the indices of pairs to drop, so that the mean log length ratio of the others is as near zero as possible.

    The most extreme ratios of the heavier side are dropped first, so that few pairs go; ties in order. Shape (N,).
    """
    if not log_ratios:
        return
    total = math.fsum(log_ratios)
    ratios = np.frombuffer(log_ratios)
    # Only the heavier side is sorted, with as few copies as possible: there may be millions of ratios.
    places = np.flatnonzero(ratios > 0 if total > 0 else ratios < 0).astype(np.uint32)
    keys = ratios[places]
    np.abs(keys, out=keys)
    np.negative(keys, out=keys)  # ascending order now puts the most extreme first; a stable sort keeps ties in order
    order = np.argsort(keys, kind="stable")
    excess = abs(total)
    for index in order:
        # Dropping a ratio of more than twice the excess would leave more excess on the other side.
        if -keys[index] < 2 * excess:
            yield int(places[index])
            excess += float(keys[index])
