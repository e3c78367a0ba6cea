"""Write eval/results/families.md: what the tests of every model family measure under both majors of transformers.

    python eval/bench/families.py --python PYTHON_WITH_4.57 --python PYTHON_WITH_5

Runs tests/models/test_family_proofs.py in both environments, which exchange models with each other, and writes the
numbers that the tests record: raw to families.json, as a table to families.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROOFS = {
    "nll_parity": "NLL parity",
    "generation_start": "generation start",
    "canary": "canary",
    "training_step": "training step",
}
INTRODUCTION = """# Verification of the model families

Tiny random models with tokenizers of each family's own class, made by the tests (`tests/support/models.py`,
`tests/support/families.py`). `tests/models/test_family_proofs.py` measures; `eval/bench/families.py` runs it in both
environments and writes this table. Raw numbers: `families.json`.

- **NLL parity**: largest difference (nats) between mtcpo's NLL of a target and the model's own `forward(labels=...)`,
  for a single token or for the mean over all.
- **generation start**: largest difference (nats, over the whole vocabulary) between the distribution from which
  `generate` takes the first token and that of training at the first label that is not forced. The test also asserts
  that both start from the same tokens, including the code of the target language.
- **canary**: saved with one major version of transformers, loaded and saved with the other, loaded with the first
  again: largest difference (nats) of a token.
- **training step**: log P(chosen) - log P(rejected) of a pair before and after two steps.

Every cell is the number of a test that passed; a failed test would be listed as FAILED, including those without a
number: that labels decode to the target with the language code in its position, and that prompts are as intended.
"""


def measure(python: str, other: str) -> dict[str, Any]:
    """Run the tests with `python`; return versions, and the numbers by model and measurement."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        environment = os.environ | {"MTCPO_OTHER_PYTHON": other, "OMP_NUM_THREADS": "1"}
        command = [
            python,
            "-m",
            "pytest",
            "tests/models/test_family_proofs.py",
            f"--junitxml={report}",
            "-o",
            "timeout=7200",
        ]
        command += ["-o", "junit_family=xunit1"]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if not report.exists():
            raise SystemExit(f"{python}: no test run ({done.returncode})")
        cells: dict[str, dict[str, Any]] = {}
        for case in ET.parse(report).iter("testcase"):
            name = case.get("name", "")
            failed = case.find("failure") is not None or case.find("error") is not None
            kind = name.partition("[")[2].rstrip("]")
            if failed:
                cells.setdefault(kind, {})["failed"] = name
            for entry in case.iter("property"):
                cells.setdefault(kind, {})[entry.get("name", "")] = "FAILED" if failed else entry.get("value")
    versions = "import transformers, tokenizers, torch; print(transformers.__version__, tokenizers.__version__, "
    versions += "torch.__version__)"
    output = subprocess.run([python, "-c", versions], capture_output=True, text=True, check=True).stdout.split()
    return {"versions": dict(zip(("transformers", "tokenizers", "torch"), output, strict=True)), "cells": cells}


def cell(proof: str, value: str | None) -> str:
    """Format a number for the table."""
    if value is None or value == "FAILED":
        return "FAILED"
    if proof == "training_step":
        before, after = map(float, value.split())
        return f"{before:+.2f} → {after:+.2f}"
    return f"{float(value):.1e}"


def table(runs: list[dict[str, Any]]) -> str:
    """Return the page."""
    names = [f"{run['versions']['transformers']}" for run in runs]
    header = ["model", *(f"{title}, {name}" for title in PROOFS.values() for name in names)]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for kind in runs[0]["cells"]:
        row = [cell(proof, run["cells"].get(kind, {}).get(proof)) for proof in PROOFS for run in runs]
        failed = [run["cells"][kind]["failed"] for run in runs if "failed" in run["cells"].get(kind, {})]
        lines.append("| " + " | ".join([kind + "".join(f" (FAILED: {name})" for name in failed), *row]) + " |")
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, one thread, float32"
    versions = [", ".join(f"{name} {version}" for name, version in run["versions"].items()) for run in runs]
    return INTRODUCTION + f"\nMachine: {machine}. Versions: {'; '.join(versions)}.\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Measure in both environments and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python",
        action="append",
        required=True,
        help="Interpreter of an environment; give it twice, once for each major version of transformers.",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "eval/results", help="Folder to write to.")
    options = parser.parse_args()
    one, two = options.python
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(measure, (one, two), (two, one)))
    (options.output / "families.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    (options.output / "families.md").write_text(table(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
