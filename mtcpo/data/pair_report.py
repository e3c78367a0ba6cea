"""`prefs-report.json`: what was kept of the preference pairs, what was dropped and why, and what the pairs are like.

One definition for who writes it (`preferences`) and who shows it (`report`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mtcpo.core.errors import UserError
from mtcpo.core.files import read_json, write_json
from mtcpo.data.records import Triplet, triplet_to_json


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Distribution(_Record):
    """Mean and quantiles of some numbers; the keys of `quantiles` are shares, "0.0" (lowest) to "1.0" (highest)."""

    mean: float
    quantiles: dict[str, float]


class Lengths(_Record):
    """How long chosen and rejected are, in characters; log_ratio is ln(chosen / rejected).

    Shares are of all pairs, 0 to 1. length_score_correlation: of a candidate's length and its value, within a source.
    length_margin_correlation: of log_ratio and margin, over the pairs. Both None where one of the two never differs.
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
    """How many of the chosen and of the rejected each system wrote, most first."""

    chosen: dict[str, int]
    rejected: dict[str, int]


class Histogram(_Record):
    """Counts of one or more groups of values between common edges: B + 1 edges, and B counts a group."""

    # In the file the groups stand beside "edges": {"edges": [...], "chosen": [...], "rejected": [...]}.
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, tuple[int, ...]]

    edges: tuple[float, ...]

    @property
    def counts(self) -> dict[str, tuple[int, ...]]:
        """Counts by group."""
        return self.__pydantic_extra__


class Histograms(_Record):
    """Histograms of a sample of the pairs.

    pairs: in the sample. margin and length_ratio (chosen / rejected) have one group, "pairs"; the scores of each
    metric have two, "chosen" and "rejected".
    """

    pairs: int
    margin: Histogram
    length_ratio: Histogram
    scores: dict[str, Histogram]


class PairReport(_Record):
    """What was read, dropped and kept; kept + sum(dropped) == considered.

    considered: pairs that were proposed, where a segment without a proposal counts as one. dropped: by reason.
    removed_candidates: single candidates left out, by reason. chosen_scores, rejected_scores: means by metric.
    agreement: "a and b" -> correlation of two metrics among the candidates of a source. metrics: signatures by name.
    notes: what users should know about the scores.
    """

    # The settings of [prefs] stand among the fields in the file: see `settings`.
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
        """The settings that the pairs were built with, by their names in [prefs]."""
        return self.__pydantic_extra__ or {}

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the file."""
        row = self.model_dump(mode="json", exclude={"examples", "notes", "mtcpo"} | set(self.settings))
        row["examples"] = list(map(triplet_to_json, self.examples))
        # In the order of the file: examples before metrics, and the settings between metrics and notes.
        row["metrics"] = row.pop("metrics")
        return row | self.settings | {"notes": list(self.notes), "mtcpo": self.mtcpo}

    def numbers(self) -> dict[str, Any]:
        """Return what is read as text: all but what is drawn, and the examples."""
        row = self.to_json()
        del row["histograms"], row["examples"]
        return row


def write_pair_report(path: Path, report: PairReport) -> None:
    """Write a report, complete or not at all."""
    write_json(path, report.to_json())


def read_pair_report(path: Path) -> PairReport:
    """Read a report.

    Raises:
        UserError: there is no such file, it is not JSON, or a field is missing or wrong.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; mtcpo build-prefs writes it")
    row = read_json(path)
    try:
        return PairReport.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        # Of several problems the first: a report of another version lacks many fields at once.
        field = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: {field}: {first['msg']}; it is not a report of this version of mtcpo: build the pairs again"
        ) from None
