"""From segments with candidates to triplets, as a stream: scores, choice, balance, and the report on all of it."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from itertools import compress
from pathlib import Path
from typing import Any

from pydantic import Field

from mtcpo import __version__
from mtcpo.corpora import Drops
from mtcpo.errors import UserError
from mtcpo.files import read_json_lines, write_json, write_json_lines, write_rows_to
from mtcpo.metrics import METRICS, metric_name
from mtcpo.prefsreport import Tally
from mtcpo.records import Segment, Triplet, read_segments, segment_to_json, triplet_from_json, triplet_to_json
from mtcpo.scoring import Scorer
from mtcpo.selection import SelectionConfig, add_references, balanced, choose_pair, length_log_ratio


class PrefsConfig(SelectionConfig):
    """How preference pairs are built. workers: processes for BLEU, chrF and TER; unset: one a core."""

    workers: int | None = Field(None, ge=1)


def report_path_of(output: Path) -> Path:
    """Return where the report on `output` goes by default: `prefs.en-de.jsonl.gz` -> `prefs.en-de-report.json`."""
    name = output.name
    for suffix in (".gz", ".zst", ".jsonl", ".json", ".parquet"):
        name = name.removesuffix(suffix)
    return output.with_name(f"{name}-report.json")


def build_preferences(
    segments: Iterable[Segment],
    config: PrefsConfig,
    output: Path,
    report: Path | None = None,
    scored: Path | None = None,
    drops: Drops | None = None,
) -> dict[str, Any]:
    """Score `segments`, choose their pairs, write the triplets to `output` and the report beside it; return the report.

    scored: where to keep the scored segments. drops: what the reader of `segments` drops, counted in the report; it may
    still grow while they are read. Memory: some 100 bytes for each triplet kept.

    Raises:
        UserError: what scoring raises, or no pair is left (the message says why; `output` is not written).
    """
    drops = Drops() if drops is None else drops
    scorer = Scorer(config.metrics, config.workers)
    tally = Tally()
    stream = scorer.score(_prepared(segments, config, tally))
    if scored is not None:
        write_json_lines(scored, map(segment_to_json, stream))
        stream = read_segments(scored)
    triplets = _without_repeats(_chosen(stream, config, tally), config, tally)
    if config.balance_length:
        triplets = _balanced(triplets, tally, output.parent)
    write_json_lines(output, map(triplet_to_json, _kept(triplets, tally, drops)))
    summary = {
        **tally.figures(drops),
        "metrics": scorer.signatures(tally.num_references()),
        **config.model_dump(mode="json", exclude={"workers", "metrics"}),
        "mtcpo": __version__,
    }
    write_json(report or report_path_of(output), summary)
    return summary


def _prepared(segments: Iterable[Segment], config: SelectionConfig, tally: Tally) -> Iterator[Segment]:
    """Yield the segments as they are scored: empty references gone, references added as candidates where asked."""
    needs_references = any(
        name in METRICS and METRICS[name].needs_references for name in map(metric_name, config.metrics)
    )
    for segment in segments:
        tally.segments += 1
        references = tuple(text for text in segment.references if text.strip())
        if not segment.source.strip():
            tally.dropped["empty_source"] += 1
        elif needs_references and segment.references and not references:
            tally.dropped["empty_reference"] += 1
        else:
            tally.reference_counts.add(len(references))
            prepared = replace(segment, references=references)
            yield add_references(prepared) if config.include_reference else prepared


def _chosen(segments: Iterable[Segment], config: SelectionConfig, tally: Tally) -> Iterator[Triplet]:
    for segment in segments:
        choice = choose_pair(segment, config)
        tally.add_choice(segment, choice)
        if choice.triplet is not None:
            yield choice.triplet


def _without_repeats(triplets: Iterable[Triplet], config: SelectionConfig, tally: Tally) -> Iterator[Triplet]:
    """Drop triplets whose languages, source, chosen and rejected were there before."""
    seen: set[int] = set()
    for triplet in triplets:
        parts = (triplet.src_lang, triplet.tgt_lang, triplet.source, triplet.chosen, triplet.rejected)
        # 8 bytes of a hash for each, not the texts: among ten million triplets one wrong hit in 370,000 corpora.
        key = int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")
        if config.deduplicate and key in seen:
            tally.dropped["duplicate"] += 1
            continue
        seen.add(key)
        yield triplet


def _balanced(triplets: Iterable[Triplet], tally: Tally, folder: Path) -> Iterator[Triplet]:
    """Drop triplets until chosen and rejected are equally long on average: two passes, the first to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".balance-", dir=folder) as temporary:
        path = Path(temporary) / "triplets.jsonl"
        ratios = array("d")

        def measured() -> Iterator[dict[str, Any]]:
            for triplet in triplets:
                ratios.append(length_log_ratio(triplet))
                yield triplet_to_json(triplet)

        write_rows_to(path, measured())
        keep = balanced(ratios)
        tally.dropped["length_balance"] += len(keep) - sum(keep)
        for where, row in compress(read_json_lines(path), keep):
            yield triplet_from_json(row, where)


def _kept(triplets: Iterable[Triplet], tally: Tally, drops: Drops) -> Iterator[Triplet]:
    for triplet in triplets:
        tally.add_kept(triplet)
        yield triplet
    if not tally.margins:
        dropped = sorted((tally.dropped + drops).items())
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped) or "no segment was read"
        raise UserError(f"no preference pair is left ({reasons}); loosen the filters or add systems")
