"""What `mtcpo evaluate` writes: evaluation.json, the translations and their error spans."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.files import refuse_existing, write_json, write_json_lines, write_text
from mtcpo.data.language_id import why_unchecked
from mtcpo.data.names import check_name
from mtcpo.data.records import Segment, errors_to_json, segment_to_json
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.per_reference import label_or_default

LINE_BREAK = re.compile(r"\r\n|\r|\n")

ERRORS = "errors_per_segment"
"""What evaluation.json calls the errors of each severity that a metric finds in a system's translation, on average."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of systems on one test set.

    entry: what evaluation.json holds of it. segments: with the systems as candidates, and their segment scores.
    """

    test_set: TestSet
    entry: Mapping[str, Any]
    segments: tuple[Segment, ...]


def entry_of(
    test_set: TestSet, baseline: str, config: EvaluateConfig, metrics: Mapping[str, Any], systems: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what evaluation.json holds of a test set, given its metrics and systems."""
    unchecked = why_unchecked(test_set.tgt_lang)
    return {
        "suite": test_set.name,
        "src_lang": test_set.src_lang,
        "tgt_lang": test_set.tgt_lang,
        "origin": test_set.origin,
        "sha256": _sha256(test_set),
        "segments": len(test_set.segments),
        "references": num_references(test_set),
        "reference_names": list(test_set.reference_names),
        "baseline": baseline,
        "significance": {
            "test": "paired bootstrap",
            "second_test": "paired approximate randomisation",
            "correction": "Holm" if len(systems) > 2 else None,
            "resamples": config.resamples,
            "seed": config.seed,
        },
        "unchecked": {"wrong_language": unchecked} if unchecked else {},
        "metrics": metrics,
        "systems": systems,
    }


def num_references(test_set: TestSet) -> int:
    """Return how many references each segment has; -1 where that varies, which signatures write as "var"."""
    counts = {len(segment.references) for segment in test_set.segments}
    return counts.pop() if len(counts) == 1 else -1


def _sha256(test_set: TestSet) -> str:
    """Return a hash of sources and references, so that two evaluations can be known to be of the same text."""
    lines = ("\t".join((segment.source, *segment.references)) for segment in test_set.segments)
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def write_evaluation(
    output_dir: Path,
    evaluations: Sequence[Evaluation],
    overwrite: bool = False,
    made: Mapping[str, Any] | None = None,
) -> Path:
    """Write translations, segments.jsonl, errors and, last, evaluation.json; return the path of the latter.

    made: what made it, where no stamp of a run says so. Line breaks inside a translation become spaces in the .txt
    files, where a line is a segment.

    Raises:
        UserError: evaluation.json exists and `overwrite` is off, or two evaluations are of one test set.
    """
    path = output_dir / "evaluation.json"
    refuse_existing(path, overwrite)
    document = to_document(evaluations) | ({} if made is None else {"made": made})
    for evaluation in evaluations:
        suite, pair = evaluation.test_set.name, evaluation.test_set.pair
        folder, of_errors = translations_dir(output_dir, suite, pair), spans_dir(output_dir, suite, pair)
        write_json_lines(folder / "segments.jsonl", map(segment_to_json, evaluation.segments))
        for at, system in enumerate(evaluation.entry["systems"]):
            file, texts = check_name("system", system), (segment.candidates[at].text for segment in evaluation.segments)
            write_translations(folder / f"{file}.txt", texts)
            if any(segment.candidates[at].errors for segment in evaluation.segments):
                write_json_lines(of_errors / f"{file}.jsonl", _error_rows(evaluation.segments, at))
            else:  # those of an evaluation before are of other translations, perhaps
                (of_errors / f"{file}.jsonl").unlink(missing_ok=True)
    write_json(path, document)
    return path


def write_translations(path: Path, texts: Iterable[str]) -> None:
    """Write one translation a line; line breaks inside one become spaces."""
    write_text(path, "".join(LINE_BREAK.sub(" ", text) + "\n" for text in texts))


def _error_rows(segments: Iterable[Segment], at: int) -> Iterator[dict[str, Any]]:
    """Yield the errors of a system in each segment, with the text in which they are found."""
    for segment in segments:
        found = segment.candidates[at]
        yield {"id": segment.id, "text": found.text, "errors": errors_to_json(found.errors)}


def translations_dir(run_dir: Path, suite: str, pair: str) -> Path:
    """Return the folder of a test set's translations; the names are checked, since they become a path."""
    return run_dir / "translations" / check_name("test set", suite) / check_name("language pair", pair)


def spans_dir(run_dir: Path, suite: str, pair: str) -> Path:
    """Return the folder of the errors in a test set's translations; the names are checked."""
    return run_dir / "spans" / check_name("test set", suite) / check_name("language pair", pair)


def to_document(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return the whole of evaluation.json. A pair that several test sets have is keyed "SUITE:PAIR"."""
    pairs = Counter(evaluation.test_set.pair for evaluation in evaluations)
    document: dict[str, Any] = {}
    for evaluation in evaluations:
        name, pair = evaluation.test_set.name, evaluation.test_set.pair
        key = pair if pairs[pair] == 1 else f"{name}:{pair}"
        if key in document:
            raise UserError(f"two test sets are {name} {pair}; rename one")
        document[key] = evaluation.entry
    return {"pairs": document}


def main_metrics(entry: Mapping[str, Any]) -> list[str]:
    """Return the metrics that sentences and plots speak of: all but those against one reference alone (`bleu-A`).

    entry: a test set's part of evaluation.json.
    """
    alone = {f"{name}-{label_or_default(label)}" for name in entry["metrics"] for label in entry["reference_names"]}
    return [name for name in entry["metrics"] if name not in alone]
