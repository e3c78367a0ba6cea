"""Largest differences of losses, metrics and gradients from those of TRL's CPOTrainer, for tiny models in float32.

Run it in each environment, from the root of a checkout with the `dev` extra installed:

    python eval/bench/trl_parity.py

It adds this environment's numbers to trl-parity.json in --output and writes trl-parity.md from that file.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "eval" / "results"
CASES = 40
LIBRARIES = ("trl", "transformers", "torch", "accelerate", "numpy")
KINDS = ("loss", "metrics", "gradients")
INTRODUCTION = """# Agreement with TRL's CPOTrainer

Both trainers get the same weights (tiny random models, float32, CPU) and the same token ids, those of mtcpo's
layouts, padded for TRL by its own collator; TRL computes with its own `get_batch_loss_metrics`. For each loss that
TRL has and each layout: {cases} random settings of all parameters of the loss (`beta`, `label_smoothing`,
`simpo_gamma`, `alpha`, `cpo_alpha`), six pairs, and the largest difference over all of them. A difference is the
largest absolute one, divided by the largest value if that is above 1. For metrics it is the largest among rewards,
accuracies, margins, log-probabilities and NLL; for gradients, over all parameters. Mixtral is included with its
router loss.

`tests/training/test_trl_parity.py` asserts 1e-5 for fewer settings (2e-5 for the gradients of Llama, whose pairs are
computed in one row) and shows every intended difference:

- micro-batches are weighted by their share of the step's normalizer instead of being averaged, so their sizes do not
  matter;
- the NLL can be computed per sentence, and is logged even if its weight is 0;
- `alphapo` keeps the given `cpo_alpha`; TRL sets it to 0;
- rewards are computed from log-probabilities, so they survive probabilities that underflow. With `alpha`, TRL's
  gradients for the summed log-probabilities of whole sentences are NaN; the targets used here for sigmoid and hinge
  with `alpha` are therefore short;
- `label_smoothing` is an error, not ignored, for losses that have none;
- mean logits are not logged, since not all logits are computed;
- targets are tokenized as targets.

Made by `python eval/bench/trl_parity.py`, once in each environment; the raw numbers are in `trl-parity.json`.
"""


def setup() -> Any:
    """Return the tests' comparison with TRL; environment variables that are read at import are set first."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from support import trl as trl_peer

    return trl_peer


def measure(trl_peer: Any, kind: str, folder: Path) -> list[dict[str, Any]]:
    """Return, for each loss, the largest differences on one tiny model."""
    from support.models import make_model

    make_model("mt5" if kind == "t5" else kind, folder)
    peers = trl_peer.Peers(trl_peer.load_peer_model(kind, folder), folder / "runs")
    rows = []
    for loss in trl_peer.LOSSES:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = [peers.differences(settings) for settings in trl_peer.random_cases(loss, CASES)]
        # Not max(): it may skip a NaN.
        worst = {name: sorted((row[name] for row in found), key=lambda x: (x != x, x))[-1] for name in KINDS}
        rows.append({"layout": kind, "loss_type": loss, "settings": CASES, **worst})
        print(kind, loss, worst, flush=True)
    return rows


def environment() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name: version(name) for name in LIBRARIES} | {"python": platform.python_version(), "commit": commit.strip()}


def table(entry: dict[str, Any]) -> str:
    """Return the numbers of an environment as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in entry["environment"].items())
    lines = [
        f"## transformers {entry['environment']['transformers']}", "", versions, "",
        "| layout | loss type | settings | loss | metrics | gradients |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in entry["rows"]:
        figures = " | ".join(f"{row[name]:.1e}" for name in KINDS)
        lines.append(f"| {row['layout']} | {row['loss_type']} | {row['settings']} | {figures} |")
    largest = " | ".join(f"**{max(row[name] for row in entry['rows']):.1e}**" for name in KINDS)
    return "\n".join([*lines, f"| all | all | {sum(row['settings'] for row in entry['rows'])} | {largest} |"]) + "\n"


def main() -> None:
    """Measure in this environment and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="Folder to write to; default: %(default)s.")
    output = parser.parse_args().output
    trl_peer, rows = setup(), []
    with tempfile.TemporaryDirectory() as folder:
        for kind in trl_peer.LAYOUTS:
            (Path(folder) / kind).mkdir()
            rows += measure(trl_peer, kind, Path(folder) / kind)
    file = output / "trl-parity.json"
    entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    entries[version("transformers")] = {"environment": environment(), "rows": rows}
    entries = dict(sorted(entries.items()))
    file.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    parts = [INTRODUCTION.format(cases=CASES), *(table(entry) for entry in entries.values())]
    (output / "trl-parity.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
