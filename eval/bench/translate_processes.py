"""`mtcpo translate` in two processes of one thread each, against one process of one thread.

    python eval/bench/translate_processes.py --model MODEL --output eval/results/bench/translate-processes.json

Whole commands are measured, as a user starts them, from Multi30k's validation set in the folder that MTCPO_TEST_DATA
names. Their time includes starting Python, importing and loading the model, which is the same whatever the number of
processes; it is measured by the same command with one source, and the ratio is given with and without it. Repeats
alternate between one and two processes. Besides wall-clock time, which needs two idle cores, the processor time of the
busiest process is compared: it shows how evenly the work is divided.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtcpo.core.files import sha256_of
from mtcpo.core.provenance import provenance

GOAL = 1.8
"""How many times as fast two processes should be."""


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds until the last process has ended, and the processor time of the process that needed most."""

    wall_s: float
    cpu_s: float


def translate(command: list[str], source: Path, output: Path, processes: int) -> Run:
    """Run a command in so many processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes)}
    line = [sys.executable, "-m", "mtcpo", "translate", str(source), *command, "--output", str(output)]
    start = time.perf_counter()
    # As torchrun starts them, without the seconds that torchrun itself needs to start.
    started = []
    for rank in range(processes):
        variables = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(subprocess.Popen(line, env=variables, stdout=subprocess.DEVNULL))
    cpu_s = []
    for process in started:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"a process ended with {process.returncode}")
        cpu_s.append(usage.ru_utime + usage.ru_stime)
    return Run(time.perf_counter() - start, max(cpu_s))


def texts_of(output: Path) -> list[str]:
    """Return the translations in a file of candidates."""
    lines = output.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["candidates"][0]["text"] for line in lines]


def ratios(runs: Mapping[str, Sequence[Run]], field: str) -> dict[str, float]:
    """Return how many times as fast two processes are, by the medians of a field of the runs."""
    loading, one, two = (statistics.median(getattr(run, field) for run in of_kind) for of_kind in runs.values())
    return {"commands": round(one / two, 3), "without_loading": round((one - loading) / (two - loading), 3)}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the times of all runs, and ratios of their medians."""
    lines = (Path(os.environ["MTCPO_TEST_DATA"]) / "multi30k/val.en").read_text(encoding="utf-8").splitlines()
    source, single = folder / "s.en", folder / "single.en"
    source.write_text("".join(f"{line}\n" for line in lines[: options.sources]), encoding="utf-8")
    single.write_text(f"{lines[0]}\n", encoding="utf-8")
    command = ["--model", options.model, "--src-lang", "en", "--tgt-lang", "de", "--set", f"num_beams={options.beams}"]
    # Named, because `auto` takes another engine for the single source of "loading".
    command += ["--engine", options.engine]

    runs: dict[str, list[Run]] = {"loading": [], "one": [], "two": []}
    for repeat in range(options.repeats):
        runs["loading"].append(translate(command, single, folder / f"loading-{repeat}.jsonl", 1))
        for name, processes in (("one", 1), ("two", 2)):
            runs[name].append(translate(command, source, folder / f"{name}-{repeat}.jsonl", processes))
    pairs = zip(texts_of(folder / "one-0.jsonl"), texts_of(folder / "two-0.jsonl"), strict=True)
    equal = sum(one == two for one, two in pairs)
    return {
        "sources": options.sources,
        "num_beams": options.beams,
        "engine": options.engine,
        "model_sha256": sha256_of(Path(options.model)),
        "runs": {name: list(map(asdict, of_kind)) for name, of_kind in runs.items()},
        "wall": ratios(runs, "wall_s"),
        "cpu_of_the_busiest_process": ratios(runs, "cpu_s"),
        "goal": GOAL,
        "equal_outputs": equal,
        "load_average": os.getloadavg(),
        "made_by": provenance(gpus=False),
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Directory of an English-German model.")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--sources", type=int, default=1000, help="Default: %(default)s.")
    parser.add_argument("--beams", type=int, default=4, help="Default: %(default)s.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each kind; default: %(default)s.")
    parser.add_argument("--engine", default="transformers", help="As of `mtcpo translate`; default: %(default)s.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
