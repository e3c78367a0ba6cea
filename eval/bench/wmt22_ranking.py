"""Time and correctness of ranking nine submitted WMT22 systems per language pair, with significance clusters.

    python eval/bench/wmt22_ranking.py --output eval/results/wmt22-ranking

For each language pair of WMT22 (wmt22 in MTCPO_TEST_DATA) it runs `mtcpo evaluate` twice: once as a user would do for
a ranking (BLEU and chrF against both references), which is timed, and once with --each-reference, whose 54 scores are
compared with the published ones. Only numbers are written, no sentences.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from real_data import data_folder


def command(pair: str, output: Path, *more: str) -> list[str]:
    """Return the command line for a language pair."""
    source, target = pair.split("-")
    folder = data_folder("wmt22") / pair
    words = ["evaluate", "--source", str(folder / f"source.{source}"), "--src-lang", source, "--tgt-lang", target]
    for label in "AB":
        words += ["--reference", f"{label}={folder / f'reference-{label}.{target}'}"]
    for path in sorted(folder.glob("system-*")):
        words += ["--hyp", f"{path.stem.removeprefix('system-')}={path}"]
    return [sys.executable, "-m", "mtcpo", *words, *more, "--output-dir", str(output)]


def timed(words: list[str]) -> dict[str, float]:
    """Run a command; return wall-clock seconds, and processor seconds including its children."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processors = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.perf_counter() - started, 1), "processor_seconds": round(processors, 1)}


def published(pair: str) -> dict[tuple[str, str], float]:
    """Return the published scores by system and metric."""
    rows = [
        line.split("\t")
        for line in (data_folder("wmt22") / "official-scores.tsv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    return {(row[1], row[4]): float(row[5]) for row in rows if row[0] == pair}


def rank(pair: str) -> dict[str, Any]:
    """Return time, ranking and agreement for a language pair."""
    with tempfile.TemporaryDirectory() as folder:
        load = os.getloadavg()[0]
        time_taken = timed(command(pair, Path(folder) / "ranking"))
        page = Path(folder) / "ranking" / "report.html"
        timed(command(pair, Path(folder) / "official", "--each-reference", "--set", "resamples=100"))
        ranking, official = (
            json.loads((Path(folder) / name / "evaluation.json").read_text(encoding="utf-8"))["pairs"][pair]
            for name in ("ranking", "official")
        )
        expected = published(pair)
        differences = {
            f"{system} {name}": abs(score["score"] - expected[system, name if "-" in name else f"{name}-all"])
            for system, row in official["systems"].items()
            for name, score in row["metrics"].items()
        }
        systems = {
            system: {
                name: {key: score[key] for key in ("score", "ci", "cluster")} for name, score in row["metrics"].items()
            }
            for system, row in sorted(ranking["systems"].items(), key=lambda item: -item[1]["metrics"]["bleu"]["score"])
        }
        return {
            **time_taken, "load_average_before": round(load, 2), "page_bytes": page.stat().st_size,
            "segments": ranking["segments"], "significance": ranking["significance"], "ranking": systems,
            "published_scores_compared": len(differences), "largest_difference": max(differences.values()),
        }  # fmt: skip


def main() -> None:
    """Rank both language pairs and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Folder for ranking.json.")
    output = parser.parse_args().output
    document = {
        "pairs": {pair: rank(pair) for pair in ("de-en", "en-de")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("numpy", "sacrebleu")},
    }  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    (output / "ranking.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
