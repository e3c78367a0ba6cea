"""Peak memory of build-prefs by number of candidates: synthetic segments of nine candidates, chrF and BLEU.

    python eval/bench/build_prefs_memory.py --output eval/results/bench/build-prefs-memory.json

Each size runs in a process of its own; what is measured is the most memory that it ever had resident. All settings are
the defaults, so that one triplet a source is written. What grows are 16 bytes for each triplet, for its quantiles.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mtcpo.preferences import PrefsConfig, build_preferences
from mtcpo.records import Candidate, Segment

SYSTEMS = 9
SIZES = (10_000, 100_000, 1_000_000)


def segments(candidates: int) -> Iterator[Segment]:
    """Yield segments with nine candidates each, no two alike, until there are `candidates` of them."""
    for number in range(candidates // SYSTEMS):
        reference = f"the gardener number {number} sees the cat in house {number % 97} today"
        texts = [f"the gardener number {number} sees {'a ' * k}cat in house {number % 97}" for k in range(SYSTEMS)]
        made = tuple(Candidate(f"s{k}", text) for k, text in enumerate(texts))
        yield Segment(str(number), "de", "en", f"Satz {number}", (reference,), candidates=made)


def measure(candidates: int) -> dict[str, float]:
    """Build preferences from that many candidates in this process; return seconds and peak memory in MiB."""
    config = PrefsConfig(metrics=("chrf", "bleu"), workers=1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = build_preferences(segments(candidates), config, Path(folder) / "prefs.jsonl")
    return {
        "candidates": report["candidates"],
        "triplets": report["kept"],
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Measure every size, each in its own process, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", type=int, help="Measure one size in this process and print its row.")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only)))
        return
    rows = []
    for size in SIZES:
        command = [sys.executable, __file__, "--only", str(size)]
        rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print(rows[-1], flush=True)
    peaks = [row["peak_mib"] for row in rows]
    found = {
        "rows": rows,
        "largest_over_smallest": round(max(peaks) / min(peaks), 3),
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
