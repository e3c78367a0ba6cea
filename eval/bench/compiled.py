"""Training steps with and without `train.args.torch_compile` on a CPU.

    python eval/bench/compiled.py --output eval/results/bench/compiled.json

New models of the demo's size; the chosen translation is the demo's reference, the rejected one that of the next line;
batches by length. Runs alternate in one process, each with its own trainer. The first pass over the data shows the
cost of compilation (new batch shapes are compiled again until the compiler treats shapes as dynamic); the second pass
is timed. The losses of both ways must agree, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from transformers import TrainerCallback

from mtcpo import PreferenceTrainer
from mtcpo.models.creation import CreateConfig, create_model

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("mt5", "llama")
WAYS = {"plain": False, "compiled": True}


class Clock(TrainerCallback):
    """Record wall-clock and processor seconds at the end of every step."""

    def __init__(self) -> None:
        self.marks = [(time.perf_counter(), time.process_time())]

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Record the time."""
        self.marks.append((time.perf_counter(), time.process_time()))


def pairs(count: int) -> list[dict[str, str]]:
    """Return triplets for the first sources of the demo."""
    source, target = (
        (ROOT / f"data/demo/prefs.{code}").read_text(encoding="utf-8").splitlines() for code in ("en", "de")
    )
    return [
        {"source": source[i], "chosen": target[i], "rejected": target[i + 1], "src_lang": "en", "tgt_lang": "de"}
        for i in range(count)
    ]


def measure(model: Path, rows: list[dict[str, str]], compiled: bool, steps: int, batch: int) -> dict[str, Any]:
    """Train for two passes; return the seconds of the first, the seconds per step of the second, and the losses."""
    clock = Clock()
    args = {
        "use_cpu": True, "torch_compile": compiled, "max_steps": 2 * steps, "logging_steps": 1, "save_strategy": "no",
        "per_device_train_batch_size": batch, "disable_tqdm": True,
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        trainer = PreferenceTrainer(str(model), rows, args=args, callbacks=[clock], output_dir=folder)
        trainer.train()
    (start, start_cpu), (middle, middle_cpu), (end, end_cpu) = (clock.marks[i] for i in (0, steps, 2 * steps))
    return {
        "first_pass": middle - start, "first_pass_cpu": middle_cpu - start_cpu,
        "step": (end - middle) / steps, "step_cpu": (end_cpu - middle_cpu) / steps,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
    }  # fmt: skip


def compare(kind: str, batches: int, batch: int, repeats: int) -> dict[str, Any]:
    """Return medians and ranges of both ways."""
    rows = pairs(batches * batch)
    with TemporaryDirectory() as folder:
        create_model(CreateConfig(architecture=kind), [text for row in rows for text in row.values()], Path(folder))
        runs = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way, compiled in WAYS.items():
                runs[way].append(measure(Path(folder), rows, compiled, batches, batch))
                print(kind, way, {key: value for key, value in runs[way][-1].items() if key != "losses"}, flush=True)
    for one, other in zip(runs["plain"], runs["compiled"], strict=True):
        torch.testing.assert_close(torch.tensor(one["losses"]), torch.tensor(other["losses"]), rtol=1e-4, atol=1e-5)
    ratios = [one["step_cpu"] / other["step_cpu"] for one, other in zip(runs["plain"], runs["compiled"], strict=True)]
    return {"runs": runs, "plain_over_compiled_cpu": {"median": statistics.median(ratios), "all": ratios}}


def main() -> None:
    """Measure the architectures and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write; default: print it.")
    parser.add_argument("--batches", type=int, default=20, help="Batches per pass; default: %(default)s.")
    parser.add_argument("--batch", type=int, default=16, help="Pairs per batch; default: %(default)s.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each way; default: %(default)s.")
    parser.add_argument("--kind", choices=KINDS, action="append", help="Architecture; repeatable; default: all.")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
        "python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip
    for kind in options.kind or KINDS:
        found[kind] = compare(kind, options.batches, options.batch, options.repeats)
    text = json.dumps(found, indent=1) + "\n"
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
