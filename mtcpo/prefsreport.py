"""The figures of prefs-report.json, gathered while segments and triplets pass by."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mtcpo.records import Candidate, Segment, Triplet
from mtcpo.selection import Choice, length_log_ratio

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


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


class LengthScoreCorrelation:
    """Pearson's correlation of length (characters) and value among the candidates of one source, over all sources.

    Both are taken relative to their mean over the source's candidates, so that long sources, which have other scores,
    do not pretend to be a bias for long translations. Positive: longer candidates score higher.
    """

    def __init__(self) -> None:
        self._length_squares = 0.0
        self._value_squares = 0.0
        self._products = 0.0

    def add(self, candidates: Sequence[Candidate], values: Sequence[float]) -> None:
        """Add the candidates of one source."""
        if not candidates:
            return
        lengths = [len(candidate.text) for candidate in candidates]
        mean_length, mean_value = sum(lengths) / len(lengths), math.fsum(values) / len(values)
        for length, value in zip(lengths, values, strict=True):
            self._length_squares += (length - mean_length) ** 2
            self._value_squares += (value - mean_value) ** 2
            self._products += (length - mean_length) * (value - mean_value)

    def result(self) -> float | None:
        """Return the correlation, or None where all lengths or all values are equal."""
        scale = math.sqrt(self._length_squares * self._value_squares)
        return self._products / scale if scale > 0 else None


class Tally:
    """Counts of what was read, dropped and kept. Memory: 16 bytes for each triplet kept.

    dropped: segments without a triplet, by reason. removed: single candidates left out, by reason.
    """

    def __init__(self) -> None:
        self.segments = 0
        self.candidates = 0
        self.dropped: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.reference_counts: set[int] = set()
        self.languages: Counter[str] = Counter()
        self.chosen, self.rejected = Side(), Side()
        self.margins, self.log_ratios = array("d"), array("d")
        self.correlation = LengthScoreCorrelation()

    def add_choice(self, segment: Segment, choice: Choice) -> None:
        """Count what became of a scored segment."""
        self.candidates += len(segment.candidates)
        self.removed.update(choice.removed)
        if choice.triplet is None:
            self.dropped[choice.reason] += 1
        self.correlation.add(choice.candidates, choice.values)

    def add_kept(self, triplet: Triplet) -> None:
        """Count a triplet that is written."""
        self.languages[f"{triplet.src_lang}-{triplet.tgt_lang}"] += 1
        self.chosen.add(triplet.chosen, triplet.chosen_system, triplet.chosen_scores)
        self.rejected.add(triplet.rejected, triplet.rejected_system, triplet.rejected_scores)
        self.margins.append(triplet.margin)
        self.log_ratios.append(length_log_ratio(triplet))

    def num_references(self) -> int:
        """Return how many references the segments had, -1 if that varied, as sacreBLEU's signatures count them."""
        return next(iter(self.reference_counts), 0) if len(self.reference_counts) < 2 else -1

    def figures(self, reader_drops: Mapping[str, int]) -> dict[str, Any]:
        """Return the report's figures. Of all segments: kept + sum(dropped) == segments. At least one was kept."""
        dropped = self.dropped + Counter(reader_drops)
        kept = len(self.margins)
        log_ratio = _distribution(self.log_ratios)
        return {
            "segments": self.segments + sum(reader_drops.values()),
            "candidates": self.candidates,
            "kept": kept,
            "dropped": dict(sorted(dropped.items())),
            "removed_candidates": dict(sorted(self.removed.items())),
            "languages": dict(sorted(self.languages.items())),
            "margin": _distribution(self.margins),
            "chosen_scores": self.chosen.mean_scores(),
            "rejected_scores": self.rejected.mean_scores(),
            "lengths": {
                "chosen_mean_chars": self.chosen.chars / kept,
                "rejected_mean_chars": self.rejected.chars / kept,
                "log_ratio_mean": log_ratio["mean"],
                "log_ratio_quantiles": log_ratio["quantiles"],
                "chosen_longer_share": sum(ratio > 0 for ratio in self.log_ratios) / kept,
                "rejected_longer_share": sum(ratio < 0 for ratio in self.log_ratios) / kept,
                "length_score_correlation": self.correlation.result(),
            },
            "systems": {
                "chosen": dict(self.chosen.systems.most_common()),
                "rejected": dict(self.rejected.systems.most_common()),
            },
        }


def _distribution(values: array[float]) -> dict[str, Any]:
    import numpy as np

    figures = np.frombuffer(values, dtype=np.float64)
    quantiles = np.quantile(figures, QUANTILES).tolist()
    return {"mean": float(figures.mean()), "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True))}
