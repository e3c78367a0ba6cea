"""Two checkouts of mtcpo, before and after a change, side by side: processor time of what users wait for.

    MTCPO_TEST_DATA=DATA python eval/bench/two_checkouts.py BEFORE AFTER --output eval/results/bench/two-checkouts.json

Rows: `mtcpo --help`; `mtcpo build-prefs --metric chrf` on nine systems of WMT22 de-en; an epoch of three training steps
of 32 pairs, mT5-small with random weights, as eval/bench/train_step.py measures it. Every run is a process of its own,
with one thread, and the checkouts alternate. A ratio is of two neighboring runs, after / before: below 1 the change
made it faster. Given are the median, the least and the most.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from real_data import data_folder

from mtcpo.core.provenance import provenance

STEP = {"shape": "mt5-small", "pairs": 32, "steps": 3, "gpu": False, "optim": "sgd", "dtype": "float32", "side": "ours"}
PAIRS = {"help": 10, "build-prefs": 5, "train-step": 3}
"""How often each row runs both checkouts."""


def run(checkout: Path, arguments: list[str]) -> tuple[float, str]:
    """Run Python in a checkout; return its processor seconds, those of its children included, and what it printed."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def show_help(checkout: Path) -> float:
    """Return the processor seconds of `mtcpo --help`."""
    return run(checkout, ["-m", "mtcpo", "--help"])[0]


def build_prefs(checkout: Path) -> float:
    """Return the processor seconds of `mtcpo build-prefs --metric chrf` on WMT22 de-en."""
    folder = data_folder("wmt22/de-en")
    arguments = ["--source", str(folder / "source.de"), "--reference", str(folder / "reference-A.en")]
    for path in sorted(folder.glob("system-*")):
        arguments += ["--hyp", f"{path.stem}={path}"]
    arguments += ["--src-lang", "de", "--tgt-lang", "en", "--metric", "chrf"]
    with tempfile.TemporaryDirectory() as output:
        return run(checkout, ["-m", "mtcpo", "build-prefs", *arguments, "--output", f"{output}/prefs.jsonl"])[0]


def train_step(checkout: Path) -> float:
    """Return the processor seconds of an epoch of three training steps, from batch to optimizer step."""
    printed = run(checkout, ["eval/bench/train_step.py", "--measure", json.dumps(STEP)])[1]
    seconds: float = json.loads(printed.splitlines()[-1])["cpu_seconds"]
    return seconds


ROWS: dict[str, Callable[[Path], float]] = {
    "help": show_help,
    "build-prefs": build_prefs,
    "train-step": train_step,
}


def compare(measure: Callable[[Path], float], before: Path, after: Path, pairs: int) -> dict[str, Any]:
    """Return the seconds of each run and the spread of the ratios."""
    measure(before)  # fills the caches of the file system and of Python
    measure(after)
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(pairs):
        seconds["before"].append(measure(before))
        seconds["after"].append(measure(after))
    ratios = [new / old for old, new in zip(seconds["before"], seconds["after"], strict=True)]
    spread = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    return {"processor_seconds": seconds, "after_for_before": spread}


def main() -> None:
    """Measure the rows and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="A checkout.")
    parser.add_argument("after", type=Path, help="The checkout to compare with it.")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), help="Default: all.")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = {}
    for name in arguments.rows:
        rows[name] = compare(ROWS[name], arguments.before.resolve(), arguments.after.resolve(), PAIRS[name])
        print(name, rows[name]["after_for_before"], flush=True)
    commits = {
        side: subprocess.run(
            ["git", "-C", str(path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for side, path in (("before", arguments.before), ("after", arguments.after))
    }
    made = {"commits": commits, **provenance(gpus=False)}
    arguments.output.write_text(json.dumps({"made": made, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
