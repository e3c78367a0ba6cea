"""The figures of prefs-report.json, gathered while segments and triplets pass by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any, Generic, TypeVar

from mtcpo.data.records import Segment, Triplet, triplet_to_json
from mtcpo.preferences.selection import Choice, length_log_ratio
from mtcpo.preferences.spill import Column

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
EXAMPLES = 20
BINS = 24
SAMPLED_FOR_HISTOGRAMS = 2_000
"""Triplets whose scores make the histograms: a bar of 24 is then right within a percent of all."""

Item = TypeVar("Item")


class Side:
    """What is summed over the chosen, or over the rejected, of all triplets kept."""

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
        """Return the mean of each score over the translations that have it."""
        return {name: total / self._counts[name] for name, total in sorted(self._sums.items())}


class SourceCorrelation:
    """Pearson's correlation of two figures among the candidates of one source, over all sources.

    Both are taken relative to their mean over the source's candidates, so that what sources differ in (long ones have
    other scores) does not pretend to be a relation between candidates.
    """

    def __init__(self) -> None:
        self._first_squares = 0.0
        self._second_squares = 0.0
        self._products = 0.0

    def add(self, first: Collection[float], second: Collection[float]) -> None:
        """Add the two figures of each candidate of one source."""
        if not first:
            return
        first_mean, second_mean = math.fsum(first) / len(first), math.fsum(second) / len(second)
        for a, b in zip(first, second, strict=True):
            self._first_squares += (a - first_mean) ** 2
            self._second_squares += (b - second_mean) ** 2
            self._products += (a - first_mean) * (b - second_mean)

    def result(self) -> float | None:
        """Return the correlation, or None where one of the figures never differs."""
        scale = math.sqrt(self._first_squares * self._second_squares)
        return max(-1.0, min(1.0, self._products / scale)) if scale > 0 else None


class Reservoir(Generic[Item]):
    """An even sample of a stream, in its order: each item is kept with the same chance (Vitter's algorithm R)."""

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
        """Return the items that were kept, in the order in which they came."""
        return [item for _, item in sorted(self._kept, key=lambda pair: pair[0])]


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of a triplet that histograms are made of."""

    margin: float
    log_ratio: float
    chosen: tuple[tuple[str, float], ...]
    rejected: tuple[tuple[str, float], ...]


class PairStatistics:
    """Counts of what was read, dropped and kept. Memory: a bounded sample; two numbers a triplet are on disk.

    dropped: segments without a pair, and pairs that were proposed and not kept, by reason. removed: single candidates
    left out, by reason. considered: proposed pairs, where a segment without a proposal counts as one.
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
        self.margins, self.log_ratios = Column(), Column()
        self.length_and_value = SourceCorrelation()
        self.agreement: dict[tuple[str, str], SourceCorrelation] = {}
        self._last_source: tuple[str, str] | None = None
        self._sample: Reservoir[Figures] = Reservoir(SAMPLED_FOR_HISTOGRAMS, seed)
        self._examples: Reservoir[Triplet] = Reservoir(EXAMPLES, seed)

    def drop_segment(self, reason: str) -> None:
        """Count a segment that is not even scored."""
        self.considered += 1
        self.dropped[reason] += 1

    def add_choice(self, segment: Segment, choice: Choice) -> None:
        """Count what became of a scored segment."""
        self.candidates += len(segment.candidates)
        self.considered += len(choice.triplets) + sum(choice.dropped.values())
        self.removed.update(choice.removed)
        self.dropped.update(choice.dropped)
        self.length_and_value.add([len(candidate.text) for candidate in choice.candidates], choice.values)
        self._add_agreement(choice)

    def _add_agreement(self, choice: Choice) -> None:
        if not choice.candidates:
            return
        names = [n for n in choice.candidates[0].scores if all(n in c.scores for c in choice.candidates)]
        for pair in combinations(sorted(names), 2):
            columns = ([candidate.scores[name] for candidate in choice.candidates] for name in pair)
            self.agreement.setdefault(pair, SourceCorrelation()).add(*columns)

    def add_kept(self, triplet: Triplet) -> None:
        """Count a triplet that is written."""
        source = triplet.id, triplet.source
        self.sources_kept += source != self._last_source
        self._last_source = source
        self.languages[f"{triplet.src_lang}-{triplet.tgt_lang}"] += 1
        self.chosen.add(triplet.chosen, triplet.chosen_system, triplet.chosen_scores)
        self.rejected.add(triplet.rejected, triplet.rejected_system, triplet.rejected_scores)
        self.margins.append(triplet.margin)
        log_ratio = length_log_ratio(triplet)
        self.log_ratios.append(log_ratio)
        scores = tuple(triplet.chosen_scores.items()), tuple(triplet.rejected_scores.items())
        self._sample.add(Figures(triplet.margin, log_ratio, *scores))
        self._examples.add(triplet)

    def close(self) -> None:
        """Forget what is on disk."""
        self.margins.close()
        self.log_ratios.close()

    def num_references(self) -> int:
        """Return how many references the segments had, -1 if that varied, as sacreBLEU's signatures count them."""
        return next(iter(self.reference_counts), 0) if len(self.reference_counts) < 2 else -1

    def figures(self, reader_drops: Mapping[str, int]) -> dict[str, Any]:
        """Return the report's figures; kept + sum(dropped) == considered. At least one triplet was kept."""
        dropped = self.dropped + Counter(reader_drops)
        return {
            "segments": self.segments + sum(reader_drops.values()),
            "candidates": self.candidates,
            "considered": self.considered + sum(reader_drops.values()),
            "kept": len(self.margins),
            "sources_kept": self.sources_kept,
            "dropped": dict(sorted(dropped.items())),
            "removed_candidates": dict(sorted(self.removed.items())),
            "languages": dict(sorted(self.languages.items())),
            "margin": _distribution(self.margins),
            "chosen_scores": self.chosen.mean_scores(),
            "rejected_scores": self.rejected.mean_scores(),
            "lengths": self._lengths(),
            "agreement": {f"{a} and {b}": one.result() for (a, b), one in sorted(self.agreement.items())},
            "systems": {
                "chosen": dict(self.chosen.systems.most_common()),
                "rejected": dict(self.rejected.systems.most_common()),
            },
            "histograms": histograms(self._sample.items()),
            "examples": [triplet_to_json(triplet) for triplet in self._examples.items()],
        }

    def _lengths(self) -> dict[str, Any]:
        kept, log_ratio = len(self.margins), _distribution(self.log_ratios)
        of_pairs = SourceCorrelation()
        of_pairs.add(self.log_ratios, self.margins)
        return {
            "chosen_mean_chars": self.chosen.chars / kept,
            "rejected_mean_chars": self.rejected.chars / kept,
            "log_ratio_mean": log_ratio["mean"],
            "log_ratio_quantiles": log_ratio["quantiles"],
            "chosen_longer_share": sum(ratio > 0 for ratio in self.log_ratios) / kept,
            "rejected_longer_share": sum(ratio < 0 for ratio in self.log_ratios) / kept,
            "length_score_correlation": self.length_and_value.result(),
            "length_margin_correlation": of_pairs.result(),
        }


def _distribution(values: Column) -> dict[str, Any]:
    return {
        "mean": values.mean(),
        "quantiles": dict(zip(map(str, QUANTILES), values.quantiles(QUANTILES), strict=True)),
    }


def histograms(sample: Sequence[Figures]) -> dict[str, Any]:
    """Return edges and counts of margins, length ratios, and each score of the chosen and the rejected.

    The most extreme hundredth on either side joins the outermost bins.
    """
    chosen, rejected = [dict(one.chosen) for one in sample], [dict(one.rejected) for one in sample]
    names = sorted({name for scores in (*chosen, *rejected) for name in scores})
    sides = {"chosen": chosen, "rejected": rejected}
    return {
        "pairs": len(sample),
        "margin": binned({"pairs": [one.margin for one in sample]}),
        "length_ratio": binned({"pairs": [math.exp(one.log_ratio) for one in sample]}),
        "scores": {
            name: binned({side: [row[name] for row in rows if name in row] for side, rows in sides.items()})
            for name in names
        },
    }


def binned(groups: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return the counts of each group of values between common edges: {"edges": ..., group: counts}."""
    import numpy as np

    together = np.concatenate([np.asarray(values, dtype=np.float64) for values in groups.values()])
    first, last = (float(np.quantile(together, share)) for share in (0.01, 0.99))
    if last - first < 1e-9:
        first, last = first - 0.5, first + 0.5
    edges = np.linspace(first, last, BINS + 1)
    found = {"edges": edges.tolist()}
    for name, values in groups.items():
        counts, _ = np.histogram(np.asarray(values, dtype=np.float64).clip(first, last), bins=edges)
        found[name] = counts.tolist()
    return found
