"""evaluation.json as records: the scores of systems on test sets, and how each compares with the baseline.

    document = read_document(folder / "evaluation.json")
    for entry in document.pairs.values():            # a test set in one language pair
        entry.score("tuned", "bleu").score           # 38.2
        entry.verdict("tuned", "ter")                # "better", "worse" or "same"; lower TER is better

The field names in the file are stable; where a record uses another name, the field's alias is the name in the file.
Only the property `MetricDescription.sign` decides whether higher or lower scores are better.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtcpo.core.config import first_problem
from mtcpo.core.errors import UserError
from mtcpo.core.files import read_json, write_json
from mtcpo.metrics.per_reference import label_or_default
from mtcpo.metrics.registry import METRICS

METRIC_TITLES: Mapping[str, str] = {name: kind.title for name, kind in METRICS.items()}
"""Metric -> name as papers write it; custom metrics are known by their key alone."""

ALPHA = 0.05
"""A difference with a p-value below this is significant."""

DIAGNOSTICS = ("empty", "copied", "looping", "wrong_language")
"""Fields of `SystemScores` that count degenerate outputs; `evaluation.diagnostics` defines them."""

Verdict = Literal["better", "worse", "same"]


class Record(BaseModel):
    """Base class of the records: frozen; unknown fields are kept and written back."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class MetricDescription(Record):
    """A metric, as used on a test set. percent: scores range from 0 to 100, not from 0 to 1."""

    signature: str
    higher_is_better: bool
    percent: bool
    used_for_selection: bool = Field(False, alias="chose_pairs")

    @property
    def sign(self) -> int:
        """1 if higher scores are better, -1 if lower ones are (TER); sign * score is higher-is-better."""
        return 1 if self.higher_is_better else -1

    def as_printed(self, stored: float) -> float:
        """Return a segment's stored score or gain, which is higher-is-better, as the metric prints it."""
        return self.sign * stored + 0.0  # + 0.0 turns -0.0 into 0.0, which is printed without a sign


class MetricScore(Record):
    """A system's corpus score by one metric.

    ci: half the width of its 95 % confidence interval. cluster: from 1, the best systems. errors_per_segment:
    severity -> mean number of errors per translation, if the metric finds error spans. used_for_selection: the metric
    selected the training pairs; used_for_decoding: it chose the system's outputs (minimum Bayes risk).
    """

    score: float
    ci: float
    signature: str
    cluster: int | None = None
    used_for_selection: bool = Field(False, alias="chose_pairs")
    used_for_decoding: bool = Field(False, alias="chose_outputs")
    errors_per_segment: dict[str, float] | None = None


class Versus(Record):
    """A system against the baseline by one metric.

    delta: the system's corpus score minus the baseline's; low, high: its 95 % interval. p_value: of the paired
    bootstrap test; p_randomization: of paired approximate randomization; p_holm: the larger of both with Holm's
    correction, if several systems were tested. wins, ties, losses: segments scored better, the same, worse.
    """

    delta: float
    p_value: float
    p_randomization: float | None = Field(None, alias="p_randomisation")
    low: float
    high: float
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    p_holm: float | None = None

    @property
    def decisive_p(self) -> float:
        """The p-value that decides: the larger of the two tests', Holm-corrected if there are several systems.

        The bootstrap's alone is too small: as sacreBLEU computes it, it is close to that of a one-sided test.
        """
        if self.p_holm is not None:
            return self.p_holm
        if self.p_randomization is None:  # a document written before the second test existed
            return self.p_value
        return max(self.p_value, self.p_randomization)


class Decoding(Record):
    """How mtcpo decoded a system's outputs.

    search: in words. candidates: of each source. mbr: the metric that chose among them by minimum Bayes risk;
    mbr_signature: of its scores, which also says whether references were aggregated.
    """

    search: str
    candidates: int = 1
    mbr: str | None = None
    mbr_signature: str | None = None


class SystemScores(Record):
    """A system on a test set: diagnostics of its outputs, scores by metric, and comparisons by baseline.

    length_ratio: characters of the outputs / characters of the references; None without references. A diagnostic of
    None was not checked. decoding: None if mtcpo did not translate, or the document is older.
    """

    length_ratio: float | None
    empty: int
    copied: int
    looping: int | None = None
    wrong_language: int | None = None
    metrics: dict[str, MetricScore]
    versus: dict[str, dict[str, Versus]]
    decoding: Decoding | None = None

    def diagnostic(self, name: str) -> int | None:
        """Return the count of one of DIAGNOSTICS; None: not checked."""
        count: int | None = getattr(self, name)
        return count


class Significance(Record):
    """How differences were tested. correction: of the p-values, if several systems were tested."""

    test: str
    second_test: str | None = None
    correction: str | None = None
    resamples: int
    seed: int


class LengthGroup(Record):
    """Segments with sources of similar length. chars: mean source length; scores: metric -> system -> corpus score."""

    segments: int
    chars: float
    scores: dict[str, dict[str, float]]


class SetEntry(Record):
    """The results on one test set in one language pair.

    references: number per segment; -1 if it varies. sha256: of sources and references. unchecked: diagnostic -> why it
    was not checked.
    """

    suite: str
    src_lang: str
    tgt_lang: str
    origin: str
    sha256: str
    segments: int
    references: int
    reference_names: tuple[str, ...]
    baseline: str
    significance: Significance
    unchecked: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, MetricDescription]
    systems: dict[str, SystemScores]
    by_length: tuple[LengthGroup, ...] = ()

    @property
    def pair(self) -> str:
        """The languages as in "en-de"."""
        return f"{self.src_lang}-{self.tgt_lang}"

    @property
    def others(self) -> tuple[str, ...]:
        """The systems that are compared with the baseline."""
        return tuple(system for system in self.systems if system != self.baseline)

    @property
    def first_metric(self) -> str:
        """The metric by which systems are ranked."""
        return next(iter(self.metrics))

    @property
    def main_metrics(self) -> tuple[str, ...]:
        """The metrics for sentences and plots: all but those against a single reference (`bleu-A`)."""
        # Recognized by the name that `with_each_reference` gives them: evaluation.json does not mark them.
        single = set()
        for name, label in product(self.metrics, self.reference_names):
            single.add(f"{name}-{label_or_default(label)}")
        return tuple(name for name in self.metrics if name not in single)

    @property
    def selection_metrics(self) -> tuple[str, ...]:
        """The metrics that were used to select the training pairs."""
        return tuple(name for name in self.metrics if self.metrics[name].used_for_selection)

    def is_chooser(self, metric: str) -> bool:
        """Whether a metric selected the training pairs, or chose the outputs of a system."""
        scores = (system.metrics[metric] for system in self.systems.values())
        return self.metrics[metric].used_for_selection or any(score.used_for_decoding for score in scores)

    @property
    def diagnostics(self) -> tuple[str, ...]:
        """Those of DIAGNOSTICS that were checked for any system."""
        checked: dict[str, None] = {}
        for name, scores in product(DIAGNOSTICS, self.systems.values()):
            if scores.diagnostic(name) is not None:
                checked[name] = None
        return tuple(checked)

    @property
    def span_metric(self) -> str | None:
        """The first metric that finds error spans."""
        # Any system will do: a metric finds error spans for all systems or for none.
        for name, score in self.systems[self.baseline].metrics.items():
            if score.errors_per_segment is not None:
                return name
        return None

    def score(self, system: str, metric: str) -> MetricScore:
        """Return a system's score by a metric."""
        return self.systems[system].metrics[metric]

    def versus(self, system: str, metric: str) -> Versus | None:
        """Return how a system compares with the baseline by a metric; None for the baseline itself."""
        return self.systems[system].versus.get(self.baseline, {}).get(metric)

    def verdict(self, system: str, metric: str) -> Verdict:
        """Return whether a system is significantly "better" or "worse" than the baseline by a metric, or the "same"."""
        versus = self.versus(system, metric)
        if versus is None or versus.decisive_p >= ALPHA or versus.delta == 0:
            return "same"
        return "better" if self.metrics[metric].sign * versus.delta > 0 else "worse"

    def ranked(self, metric: str) -> tuple[str, ...]:
        """Return the systems from the best to the worst by a metric; ties keep the order of the file."""
        sign = self.metrics[metric].sign
        return tuple(sorted(self.systems, key=lambda system: -sign * self.score(system, metric).score))

    def best(self, metric: str) -> frozenset[str]:
        """Return the systems that share the best score by a metric; empty if there is only one system."""
        if len(self.systems) == 1:
            return frozenset()
        # Exact comparison: equal outputs have equal scores, and a near tie is not a tie.
        highest = self.score(self.ranked(metric)[0], metric).score
        return frozenset(system for system in self.systems if self.score(system, metric).score == highest)


class EvaluationDocument(Record):
    """The whole of evaluation.json.

    pairs: keyed by language pair, or "SUITE:PAIR" if several test sets have that pair. made: provenance (command,
    versions, settings, inputs), if no run directory's stamp has it.
    """

    pairs: dict[str, SetEntry]
    made: dict[str, Any] | None = None

    @property
    def entries(self) -> tuple[SetEntry, ...]:
        """The test sets in the order of the file."""
        return tuple(self.pairs.values())

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> EvaluationDocument:
        """Parse a JSON object.

        Raises:
            UserError: a field is missing or has the wrong type; the message begins with `where`.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise UserError(
                f"{where}: not an evaluation.json of mtcpo ({first_problem(error)}); evaluate again"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object for the file; fields that were never set are left out."""
        # exclude_unset, not exclude_defaults: an explicit null (no correction, not checked) is meaningful.
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def read_document(path: Path) -> EvaluationDocument:
    """Read an evaluation.json.

    Raises:
        UserError: no such file, not JSON, or not an evaluation.
    """
    return EvaluationDocument.from_json(read_json(path), str(path))


def write_document(path: Path, document: EvaluationDocument) -> None:
    """Write an evaluation.json atomically."""
    write_json(path, document.to_json())
