"""`prefs-report.json`: which preference pairs were kept, which were dropped and why, and statistics of the pairs.

The one definition shared by `preferences`, which writes it, and `report`, which shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mtcpo.core.config import first_problem
from mtcpo.core.errors import UserError
from mtcpo.core.files import read_json, write_json
from mtcpo.data.records import Triplet, triplet_to_json


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Distribution(_Record):
    """Mean and quantiles of a set of numbers; the keys of `quantiles` go from "0.0" (minimum) to "1.0" (maximum)."""

    mean: float
    quantiles: dict[str, float]


class Lengths(_Record):
    """Lengths of chosen and rejected, in characters; log_ratio is ln(chosen / rejected).

    Shares are of all pairs, 0 to 1. length_score_correlation: of a candidate's length with its value, within a source.
    length_margin_correlation: of log_ratio with margin, over the pairs. Both are None if one of the two is constant.
    """

    chosen_mean_chars: float
    rejected_mean_chars: float
    log_ratio_mean: float
    log_ratio_quantiles: dict[str, float]
    chosen_longer_share: float
    rejected_longer_share: float
    length_score_correlation: float | None
    length_margin_correlation: float | None


class SystemCounts(_Record):
    """How many of the chosen and of the rejected are by each system, most frequent first."""

    chosen: dict[str, int]
    rejected: dict[str, int]


class Histogram(_Record):
    """Counts of one or more groups of values in common bins: B + 1 edges, and B counts for each group."""

    # In the file, the groups are siblings of "edges": {"edges": [...], "chosen": [...], "rejected": [...]}.
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, tuple[int, ...]]

    edges: tuple[float, ...]

    @property
    def counts(self) -> dict[str, tuple[int, ...]]:
        """Counts by group."""
        return self.__pydantic_extra__


class Histograms(_Record):
    """Histograms of a sample of the pairs.

    pairs: size of the sample. margin and length_ratio (chosen / rejected) have one group, "pairs"; the scores of each
    metric have two, "chosen" and "rejected".
    """

    pairs: int
    margin: Histogram
    length_ratio: Histogram
    scores: dict[str, Histogram]


class PairReport(_Record):
    """What was read, dropped and kept; kept + sum(dropped) == considered.

    considered: proposed pairs; a segment without any counts as one. dropped: reason -> count.
    removed_candidates: reason -> count of single candidates. chosen_scores, rejected_scores: metric -> mean.
    agreement: "a and b" -> correlation of two metrics among the candidates of a source. metrics: name -> signature.
    notes: warnings about the scores.
    """

    # In the file, the settings of [prefs] are among the other fields: see `settings`.
    model_config = ConfigDict(extra="allow")

    segments: int
    candidates: int
    considered: int
    kept: int
    sources_kept: int
    dropped: dict[str, int]
    removed_candidates: dict[str, int]
    languages: dict[str, int]
    margin: Distribution
    chosen_scores: dict[str, float]
    rejected_scores: dict[str, float]
    lengths: Lengths
    agreement: dict[str, float | None]
    systems: SystemCounts
    histograms: Histograms
    examples: tuple[Triplet, ...]
    metrics: dict[str, str]
    notes: tuple[str, ...]
    mtcpo: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the pairs were built with: name in [prefs] -> value."""
        return self.__pydantic_extra__ or {}

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the file."""
        row = self.model_dump(mode="json", exclude={"examples", "notes", "mtcpo"} | set(self.settings))
        row["examples"] = list(map(triplet_to_json, self.examples))
        # The order in the file: examples before metrics, then the settings, then notes.
        row["metrics"] = row.pop("metrics")
        return row | self.settings | {"notes": list(self.notes), "mtcpo": self.mtcpo}

    def numbers(self) -> dict[str, Any]:
        """Return the fields shown as text: all but histograms and examples."""
        row = self.to_json()
        del row["histograms"], row["examples"]
        return row


def write_pair_report(path: Path, report: PairReport) -> None:
    """Write a report atomically."""
    write_json(path, report.to_json())


def read_pair_report(path: Path) -> PairReport:
    """Read a report.

    Raises:
        UserError: no such file, not JSON, or a field is missing or has the wrong type.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; mtcpo build-prefs writes it")
    row = read_json(path)
    try:
        return PairReport.model_validate(row)
    except ValidationError as error:
        raise UserError(
            f"{path}: {first_problem(error)}; it is not a report of this version of mtcpo: build the pairs again"
        ) from None
