"""The same three systems evaluated by `mtcpo evaluate`, `sacrebleu --paired-bs` and `comet-compare`.

    python eval/bench/side_by_side.py --output eval/results/side-by-side

The data are the first 500 lines of WMT22 de-en (wmt22 in MTCPO_TEST_DATA), reference A, systems Online-W (the
baseline), Online-B and LT22. The COMET model is tiny and has random weights (tests/support/comet.py), so its scores
mean nothing, but must be the same in both tools. Needs unbabel-comet. Only numbers are written, no sentences.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from real_data import data_folder

ROOT = Path(__file__).parents[2]
SYSTEMS = ("Online-W", "Online-B", "LT22")
LINES = 500
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def write_first_lines(folder: Path) -> None:
    """Write the first lines of each file of the test set to a folder."""
    data = data_folder("wmt22/de-en")
    names = {"source.de": "src", "reference-A.en": "ref"} | {f"system-{name}.en": name for name in SYSTEMS}
    for name, short in names.items():
        lines = (data / name).read_text(encoding="utf-8").split("\n")[:LINES]
        (folder / short).write_text("\n".join(lines) + "\n", encoding="utf-8")


def call(words: list[str], folder: Path) -> tuple[str, float]:
    """Run a command in a folder; return its output and the seconds it took."""
    started = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")
    return done.stdout, round(time.perf_counter() - started, 1)


def by_mtcpo(folder: Path) -> dict[str, Any]:
    """Return the results of mtcpo evaluate."""
    words = ["evaluate", "--source", "src", "--reference", "ref", "--src-lang", "de", "--tgt-lang", "en"]
    for name in SYSTEMS:
        words += ["--hyp", f"{name}={name}"]
    words += ["--metric", "bleu", "--metric", "chrf", "--metric", "comet:./comet", "--output-dir", "ours"]
    _, seconds = call([sys.executable, "-m", "mtcpo", *words], folder)
    entry = json.loads((folder / "ours" / "evaluation.json").read_text(encoding="utf-8"))["pairs"]["de-en"]
    del entry["sha256"], entry["origin"], entry["reference_names"]
    for described in entry["metrics"].values():
        described["signature"] = described["signature"].replace(str(folder), ".")
    for row in entry["systems"].values():
        for score in row["metrics"].values():
            del score["signature"]
    return {"command": ["mtcpo", *words], "seconds": seconds, "output": entry}


def by_sacrebleu(folder: Path) -> dict[str, Any]:
    """Return the results of sacreBLEU."""
    words = ["sacrebleu", "ref", "-i", *SYSTEMS, "-m", "bleu", "chrf", "--paired-bs", "-f", "json"]
    output, seconds = call([sys.executable, "-m", *words], folder)
    return {"command": words, "seconds": seconds, "output": json.loads(output)}


def by_comet(folder: Path) -> dict[str, Any]:
    """Return the results of comet-compare, without its list of segments."""
    model = "comet/checkpoints/model.ckpt"
    words = ["-s", "src", "-t", *SYSTEMS, "-r", "ref", "--model", model, "--gpus", "0", "--quiet"]
    program = "import sys; from comet.cli.compare import compare_command; sys.exit(compare_command())"
    output, seconds = call([sys.executable, "-c", program, *words, "--to_json", "comet.json"], folder)
    kept = [line for line in output.splitlines() if "\tsegment" not in line]
    return {"command": ["comet-compare", *words], "seconds": seconds, "printed_without_segments": kept}


def main() -> None:
    """Run all three and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Folder for figures.json.")
    output = parser.parse_args().output
    data_folder("wmt22/de-en")  # fails early
    sys.path.insert(0, str(ROOT / "tests"))
    from support.comet import make_comet, make_encoder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_first_lines(folder)
        make_comet(folder / "comet", "regression", make_encoder(folder / "encoder"))
        document = {
            "lines": LINES, "systems": SYSTEMS,
            "mtcpo": by_mtcpo(folder), "sacrebleu": by_sacrebleu(folder), "comet-compare": by_comet(folder),
            "versions": {name: metadata.version(name) for name in ("sacrebleu", "unbabel-comet", "numpy")},
        }  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    (output / "figures.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
