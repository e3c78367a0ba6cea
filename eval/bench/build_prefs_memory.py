"""Peak memory of build-prefs by number of candidates: synthetic segments with nine different candidates each.

    python eval/bench/build_prefs_memory.py --output eval/results/bench/build-prefs-memory.json

Three settings: chrF and BLEU with one triplet per source; the same with everything that must see all triplets before
the first is kept (z-scores over the whole set, eight triplets per source, deduplication, length balance, a cap); and
a COMET model with random weights, 2 layers x 32, with its score cache. Each size runs in its own process on one
thread. Measured: the peak of the resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtcpo.core.provenance import provenance
from mtcpo.data.records import Candidate, Segment
from mtcpo.preferences.build import PrefsConfig, build_preferences

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = 9
SIZES = (10_000, 100_000, 1_000_000)
WAYS: dict[str, dict[str, Any]] = {
    "chrf and bleu": {"metrics": ("chrf", "bleu")},
    "all that waits for the last": {
        "metrics": ("chrf", "bleu"), "combine": "zscore-set", "select": "best-vs-rest", "deduplicate": True,
        "balance_length": True, "max_per_language": 1_000,
    },
    "comet": {"metrics": ("comet",)},
}  # fmt: skip


def segments(candidates: int) -> Iterator[Segment]:
    """Yield segments with nine candidates each, `candidates` in all: growing ones and shrinking ones in turn."""
    for number in range(candidates // SYSTEMS):
        reference = f"the gardener number {number} sees the cat in house {number % 97} today"
        words = f"the gardener number {number} sees the big grey cat in house {number % 97}".split()
        texts = [" ".join(words[: len(words) - k] if number % 2 else [*words, *["a"] * k]) for k in range(SYSTEMS)]
        made = tuple(Candidate(f"s{k}", text) for k, text in enumerate(texts))
        yield Segment(str(number), "de", "en", f"Satz {number}", (reference,), candidates=made)


def measure(candidates: int, way: str, model: str) -> dict[str, Any]:
    """Build preferences from this many candidates in this process; return seconds and peak memory in MiB."""
    settings = WAYS[way]
    if way == "comet":
        settings = {"metrics": (f"comet:{model}",)}
    config = PrefsConfig(workers=1, **settings)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = build_preferences(segments(candidates), config, Path(folder) / "prefs.jsonl")
    return {
        "way": way,
        "candidates": report.candidates,
        "triplets": report.kept,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def apart(*arguments: str) -> str:
    """Run this file in a process of its own; return its output."""
    return subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True).stdout


def make_model(folder: Path) -> None:
    """Write a COMET regression model with random weights, and its encoder."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.comet import make_comet, make_encoder

    make_comet(folder / "comet", "regression", make_encoder(folder / "encoder"))


def main() -> None:
    """Measure every size, each in its own process, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write.")
    parser.add_argument("--only", nargs=3, metavar=("SIZE", "WAY", "MODEL"), help=argparse.SUPPRESS)
    parser.add_argument("--make-model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make_model:
        make_model(arguments.make_model)
        return
    if arguments.only:
        size, way, model = arguments.only
        print(json.dumps(measure(int(size), way, model)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # In another process: a child starts with the peak memory of its parent.
        apart("--make-model", folder)
        model = Path(folder) / "comet"
        for way in WAYS:
            for size in SIZES:
                rows.append(json.loads(apart("--only", str(size), way, str(model))))
                print(rows[-1], flush=True)
    peaks = {way: [row["peak_mib"] for row in rows if row["way"] == way] for way in WAYS}
    found = {
        "rows": rows,
        "largest_over_smallest": {way: round(max(found) / min(found), 3) for way, found in peaks.items()},
        "made_by": provenance(gpus=False),
    }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
