"""The statistics in prefs-report.json, gathered while segments and triplets stream through."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from operator import itemgetter
from random import Random
from typing import Any, Generic, TypeVar

import numpy as np

from mtcpo.data.pair_report import Distribution, Histogram, Histograms, Lengths, SystemCounts
from mtcpo.data.records import Segment, Triplet
from mtcpo.preferences.balancing import length_log_ratio
from mtcpo.preferences.chooser import Choice

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
EXAMPLES = 20
BINS = 24
SAMPLED_FOR_HISTOGRAMS = 2_000
"""Triplets sampled for the histograms: each of 24 bars is then within a percentage point of its exact height."""

Item = TypeVar("Item")


class Side:
    """Sums over the chosen, or over the rejected, of all triplets kept."""

    def __init__(self) -> None:
        self.chars = 0
        self.systems: Counter[str] = Counter()
        self._sums: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def add(self, text: str, system: str, scores: Mapping[str, float]) -> None:
        """Count one chosen or rejected translation."""
        self.chars += len(text)
        self.systems[system] += 1
        for name, score in scores.items():
            self._sums[name] = self._sums.get(name, 0.0) + score
            self._counts[name] += 1

    def mean_scores(self) -> dict[str, float]:
        """Return metric -> mean score over the translations that have it."""
        return {name: total / self._counts[name] for name, total in sorted(self._sums.items())}


class SourceCorrelation:
    """Pearson correlation of two numbers among the candidates of a source, pooled over all sources.

    Both are taken relative to their mean over the source's candidates: otherwise a difference between sources (long
    ones have other scores) would look like a relation between candidates.
    """

    def __init__(self) -> None:
        self._first_squares = 0.0
        self._second_squares = 0.0
        self._products = 0.0

    def add(self, first: Collection[float], second: Collection[float]) -> None:
        """Add the two numbers of each candidate of one source."""
        if not first:
            return
        first_mean, second_mean = math.fsum(first) / len(first), math.fsum(second) / len(second)
        for a, b in zip(first, second, strict=True):
            self._first_squares += (a - first_mean) ** 2
            self._second_squares += (b - second_mean) ** 2
            self._products += (a - first_mean) * (b - second_mean)

    def result(self) -> float | None:
        """Return the correlation, -1 to 1, or None if one of the numbers is constant."""
        scale = math.sqrt(self._first_squares * self._second_squares)
        # Rounding can put it slightly outside [-1, 1].
        return max(-1.0, min(1.0, self._products / scale)) if scale > 0 else None


class Reservoir(Generic[Item]):
    """A uniform random sample of a stream, in order (Vitter's algorithm R)."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = Random(seed)
        self._seen = 0
        self._kept: list[tuple[int, Item]] = []

    def add(self, item: Item) -> None:
        """Offer the next item."""
        self._seen += 1
        place = self._seen - 1 if self._seen <= self._size else self._random.randrange(self._seen)
        if place < len(self._kept):
            self._kept[place] = self._seen, item
        elif place < self._size:
            self._kept.append((self._seen, item))

    def items(self) -> list[Item]:
        """Return the sampled items in stream order."""
        # By position alone: the items need not be comparable.
        in_order = sorted(self._kept, key=itemgetter(0))
        return [item for _, item in in_order]


class PairStatistics:
    """Counts of what was read, dropped and kept. Memory: a bounded sample, and 16 bytes for each triplet kept.

    dropped: reason -> count of segments without a pair and proposed pairs that were not kept. removed: reason -> count
    of single candidates. considered: proposed pairs; a segment without any counts as one.
    """

    def __init__(self, seed: int = 0) -> None:
        self.segments = 0
        self.candidates = 0
        self.considered = 0
        self.sources_kept = 0
        self.dropped: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.reference_counts: set[int] = set()
        self.languages: Counter[str] = Counter()
        self.chosen, self.rejected = Side(), Side()
        # Arrays, not lists: 8 bytes per number instead of 32. Quantiles need all of them.
        self.margins, self.log_ratios = array("d"), array("d")
        self.length_and_value = SourceCorrelation()
        self.agreement: dict[tuple[str, str], SourceCorrelation] = {}
        self._last_source: tuple[str, str] | None = None
        self._sample: Reservoir[Triplet] = Reservoir(SAMPLED_FOR_HISTOGRAMS, seed)
        self._examples: Reservoir[Triplet] = Reservoir(EXAMPLES, seed)

    def drop_segment(self, reason: str) -> None:
        """Count a segment that is dropped before scoring."""
        self.considered += 1
        self.dropped[reason] += 1

    def add_choice(self, segment: Segment, choice: Choice) -> None:
        """Count what was chosen and dropped in a scored segment."""
        self.candidates += len(segment.candidates)
        self.considered += len(choice.triplets) + sum(choice.dropped.values())
        self.removed.update(choice.removed)
        self.dropped.update(choice.dropped)
        lengths = [len(candidate.text) for candidate in choice.candidates]
        self.length_and_value.add(lengths, choice.values)
        self._add_agreement(choice)

    def _add_agreement(self, choice: Choice) -> None:
        if not choice.candidates:
            return
        # Only scores that all candidates have can be correlated.
        shared = set(choice.candidates[0].scores)
        shared.intersection_update(*(candidate.scores for candidate in choice.candidates))
        if len(shared) < 2:
            return
        # Sorted, so that the name of a pair of metrics does not depend on the order of the scores.
        columns = {}
        for name in sorted(shared):
            columns[name] = [candidate.scores[name] for candidate in choice.candidates]
        for pair in combinations(columns, 2):
            self.agreement.setdefault(pair, SourceCorrelation()).add(columns[pair[0]], columns[pair[1]])

    def add_kept(self, triplet: Triplet) -> None:
        """Count a triplet that is written."""
        source = triplet.id, triplet.source
        # Triplets of one source are consecutive.
        self.sources_kept += source != self._last_source
        self._last_source = source
        self.languages[f"{triplet.src_lang}-{triplet.tgt_lang}"] += 1
        self.chosen.add(triplet.chosen, triplet.chosen_system, triplet.chosen_scores)
        self.rejected.add(triplet.rejected, triplet.rejected_system, triplet.rejected_scores)
        self.margins.append(triplet.margin)
        self.log_ratios.append(length_log_ratio(triplet))
        self._sample.add(triplet)
        self._examples.add(triplet)

    def num_references(self) -> int:
        """Return the number of references per segment, -1 if it varied: the convention of sacreBLEU's signatures."""
        return next(iter(self.reference_counts), 0) if len(self.reference_counts) < 2 else -1

    def summary(self, reader_drops: Mapping[str, int]) -> dict[str, Any]:
        """Return the fields of a PairReport that are gathered here. At least one triplet must have been kept.

        reader_drops: reason -> count of what the reader dropped.
        """
        # Sorted by name, not by first occurrence: runs are easier to compare.
        dropped = self.dropped + Counter(reader_drops)
        agreement = {f"{a} and {b}": correlation.result() for (a, b), correlation in sorted(self.agreement.items())}
        return {
            "segments": self.segments + sum(reader_drops.values()),
            "candidates": self.candidates,
            "considered": self.considered + sum(reader_drops.values()),
            "kept": len(self.margins),
            "sources_kept": self.sources_kept,
            "dropped": dict(sorted(dropped.items())),
            "removed_candidates": dict(sorted(self.removed.items())),
            "languages": dict(sorted(self.languages.items())),
            "margin": distribution(self.margins),
            "chosen_scores": self.chosen.mean_scores(),
            "rejected_scores": self.rejected.mean_scores(),
            "lengths": self._lengths(),
            "agreement": agreement,
            "systems": SystemCounts(
                chosen=dict(self.chosen.systems.most_common()), rejected=dict(self.rejected.systems.most_common())
            ),
            "histograms": histograms(self._sample.items()),
            "examples": tuple(self._examples.items()),
        }

    def _lengths(self) -> Lengths:
        kept, log_ratio = len(self.margins), distribution(self.log_ratios)
        length_and_margin = SourceCorrelation()
        length_and_margin.add(self.log_ratios, self.margins)
        return Lengths(
            chosen_mean_chars=self.chosen.chars / kept,
            rejected_mean_chars=self.rejected.chars / kept,
            log_ratio_mean=log_ratio.mean,
            log_ratio_quantiles=log_ratio.quantiles,
            chosen_longer_share=sum(ratio > 0 for ratio in self.log_ratios) / kept,
            rejected_longer_share=sum(ratio < 0 for ratio in self.log_ratios) / kept,
            length_score_correlation=self.length_and_value.result(),
            length_margin_correlation=length_and_margin.result(),
        )


def distribution(values: array[float]) -> Distribution:
    """Return mean and quantiles (linear interpolation) of one or more numbers."""
    # frombuffer copies nothing; the sorted copy is freed on return.
    ascending = np.sort(np.frombuffer(values))
    quantiles = {}
    for share in QUANTILES:
        position = share * (len(values) - 1)
        low, high = float(ascending[math.floor(position)]), float(ascending[math.ceil(position)])
        quantiles[str(share)] = low + (high - low) * (position - math.floor(position))
    return Distribution(mean=math.fsum(values) / len(values), quantiles=quantiles)


def histograms(sample: Sequence[Triplet]) -> Histograms:
    """Return histograms of margins, length ratios, and each score of the chosen and of the rejected."""
    # Common bins for chosen and rejected, so that their shapes can be compared.
    scores: dict[str, dict[str, list[float]]] = {}
    for triplet in sample:
        for side, by_name in (("chosen", triplet.chosen_scores), ("rejected", triplet.rejected_scores)):
            for name, score in by_name.items():
                scores.setdefault(name, {"chosen": [], "rejected": []})[side].append(score)
    return Histograms(
        pairs=len(sample),
        margin=histogram_of({"pairs": [triplet.margin for triplet in sample]}),
        length_ratio=histogram_of({"pairs": [math.exp(length_log_ratio(triplet)) for triplet in sample]}),
        scores={name: histogram_of(sides) for name, sides in sorted(scores.items())},
    )


def histogram_of(groups: Mapping[str, Sequence[float]]) -> Histogram:
    """Return the histogram of each group of values, in common bins.

    The most extreme 1 % on either side is counted in the outermost bins; otherwise an outlier would squeeze the rest.
    """
    values = np.concatenate([np.asarray(group, dtype=np.float64) for group in groups.values()])
    first, last = float(np.quantile(values, 0.01)), float(np.quantile(values, 0.99))
    if last - first < 1e-9:
        # All values are equal, but a bin needs a width.
        first, last = first - 0.5, first + 0.5
    edges = np.linspace(first, last, BINS + 1)
    counts = {}
    for name, group in groups.items():
        in_range = np.asarray(group, dtype=np.float64).clip(first, last)
        counts[name] = np.histogram(in_range, bins=edges)[0].tolist()
    return Histogram(edges=edges.tolist(), **counts)
