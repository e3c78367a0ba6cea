"""The files that an evaluation writes: evaluation.json, the translations and the error spans.

evaluation.json                                 all scores, with signatures
translations/<suite>/<pair>/<system>.txt        one translation per line
translations/<suite>/<pair>/segments.jsonl      segments with the systems as candidates, and segment scores
spans/<suite>/<pair>/<system>.jsonl             the error spans that a metric finds, one translation per line
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.files import refuse_existing, write_text
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.names import check_name
from mtcpo.data.records import Segment, errors_to_json, segment_to_json
from mtcpo.evaluation.document import EvaluationDocument, SetEntry, write_document
from mtcpo.evaluation.testsets.testset import TestSet

EVALUATION_FILE = "evaluation.json"

LINE_BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluation of systems on one test set.

    entry: its entry of evaluation.json. segments: with the systems as candidates, and their segment scores. engines:
    system -> what translated it, such as "ctranslate2 4.8.5 (float32)"; without systems whose outputs were given.
    decoding_counts: system -> what happened in decoding, on all test sets (`incidents`).
    """

    test_set: TestSet
    entry: SetEntry
    segments: tuple[Segment, ...]
    engines: Mapping[str, str] = field(default_factory=dict)
    decoding_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def to_document(evaluations: Sequence[Evaluation], made: Mapping[str, Any] | None = None) -> EvaluationDocument:
    """Return the document for several test sets. A language pair that occurs twice or more is keyed "SUITE:PAIR".

    made: provenance (command, versions, inputs), if no run's stamp has it. The engines that translated, and what
    happened in decoding, are added.

    Raises:
        UserError: two evaluations are of the same test set.
    """
    # Otherwise by PAIR alone: readers of a single test set rely on the short key.
    sets_per_pair = Counter(evaluation.test_set.pair for evaluation in evaluations)
    entries: dict[str, SetEntry] = {}
    for evaluation in evaluations:
        name, pair = evaluation.test_set.name, evaluation.test_set.pair
        key = pair if sets_per_pair[pair] == 1 else f"{name}:{pair}"
        if key in entries:
            raise UserError(f"two test sets are named {name} {pair}; rename one")
        entries[key] = evaluation.entry
    provenance = dict(made or {}) | _provenance_of_decoding(evaluations)
    if not provenance:  # a field that is set is written, even if it is None
        return EvaluationDocument(pairs=entries)
    return EvaluationDocument(pairs=entries, made=provenance)


def _provenance_of_decoding(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return engines and counts of incidents by system, without what is empty."""
    engines: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}
    for evaluation in evaluations:
        # The same on all test sets: a model translates them one after the other, and counts over all.
        engines |= evaluation.engines
        for system, incidents in evaluation.decoding_counts.items():
            if incidents:
                counts[system] = dict(incidents)
    provenance: dict[str, Any] = {}
    if engines:
        provenance["engines"] = engines
    if counts:
        provenance["decoding_counts"] = counts
    return provenance


def write_evaluation(
    output_dir: Path,
    evaluations: Sequence[Evaluation],
    overwrite: bool = False,
    made: Mapping[str, Any] | None = None,
) -> EvaluationDocument:
    """Write translations, segments, error spans and finally evaluation.json; return its document.

    made: as in `to_document`.

    Raises:
        UserError: evaluation.json exists and `overwrite` is off, or two evaluations are of the same test set.
    """
    path = output_dir / EVALUATION_FILE
    # Checked before anything is written, so that a mistake leaves the folder unchanged.
    refuse_existing(path, overwrite)
    document = to_document(evaluations, made)
    for evaluation in evaluations:
        _write_texts(output_dir, evaluation)
    # Last: if evaluation.json exists, everything else does too.
    write_document(path, document)
    return document


def _write_texts(output_dir: Path, evaluation: Evaluation) -> None:
    """Write one test set's translations, segments, and the error spans of systems that have any."""
    suite, pair = evaluation.test_set.name, evaluation.test_set.pair
    translations, spans = translations_dir(output_dir, suite, pair), spans_dir(output_dir, suite, pair)
    write_row_file(translations / "segments.jsonl", map(segment_to_json, evaluation.segments))
    for index, system in enumerate(evaluation.entry.systems):
        file_name = check_name("system", system)
        texts, has_spans = [], False
        for segment in evaluation.segments:
            output = segment.candidates[index]
            texts.append(output.text)
            has_spans = has_spans or bool(output.errors)
        write_translations(translations / f"{file_name}.txt", texts)
        spans_file = spans / f"{file_name}.jsonl"
        if has_spans:
            write_row_file(spans_file, _span_rows(evaluation.segments, index))
        else:
            # A file from an earlier evaluation would describe other translations.
            spans_file.unlink(missing_ok=True)


def write_translations(path: Path, texts: Iterable[str]) -> None:
    """Write one translation per line; line breaks inside a translation become spaces."""
    # Only what other tools take for a line end: U+2028 and the like stay as the system wrote them.
    lines = [LINE_BREAK.sub(" ", text) + "\n" for text in texts]
    write_text(path, "".join(lines))


def _span_rows(segments: Iterable[Segment], system: int) -> Iterator[dict[str, Any]]:
    """Yield a system's error spans in each segment, with the text that their positions refer to."""
    for segment in segments:
        output = segment.candidates[system]
        yield {"id": segment.id, "text": output.text, "errors": errors_to_json(output.errors)}


def translations_dir(run_dir: Path, suite: str, pair: str) -> Path:
    """Return the folder of a test set's translations; the names are checked, because they become a path."""
    return run_dir / "translations" / check_name("test set", suite) / check_name("language pair", pair)


def spans_dir(run_dir: Path, suite: str, pair: str) -> Path:
    """Return the folder of a test set's error spans; the names are checked, because they become a path."""
    return run_dir / "spans" / check_name("test set", suite) / check_name("language pair", pair)
