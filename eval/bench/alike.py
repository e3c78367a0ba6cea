"""What is saved by computing the common prefix of chosen and rejected once: mtcpo's training step with and without.

    OMP_NUM_THREADS=1 python eval/bench/alike.py

Two shapes: mT5-small, where the lm_head sees the prefix once, and a decoder-only model, where the layers see it once
too. 8 pairs per step with the lengths of Multi30k, or with ALMA's prompt; prefixes of 0, 3 and 8 tokens (3 is the
mean for pairs of a model's own candidates). Both ways alternate in one process on the same pairs. Measured: processor
time of 2 steps, SGD, float32. Result: eval/results/bench/alike.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
FILE = ROOT / "eval" / "results" / "bench" / "alike.json"
PAIRS, STEPS, REPEATS = 8, 2, 4
SHAPES = {"mt5-small": {}, "qwen2-small": {"prompt": 14, "scale": 2.0}}
ALIKE = (0, 3, 8)


@contextmanager
def apart() -> Iterator[None]:
    """Switch the shared prefix off: each target gets all its positions for itself."""
    import torch

    from mtcpo.models.layouts import encoder_decoder, packing

    kept = encoder_decoder._shared_positions, packing._begin_alike
    encoder_decoder._shared_positions = lambda inputs, sources: torch.arange(inputs.numel()).view(inputs.shape)
    packing._begin_alike = lambda row: 0
    try:
        yield
    finally:
        encoder_decoder._shared_positions, packing._begin_alike = kept


def seconds(loaded: Any, examples: list[Any]) -> float:
    """Return the processor seconds of an epoch."""
    import train_sides as sides

    run = {"pairs": PAIRS, "gpu": False, "optim": "sgd", "dtype": "float32"}
    trainer = sides.our_trainer(loaded, examples, run, STEPS)
    start = time.process_time()
    trainer.train()
    return time.process_time() - start


def main() -> None:
    """Measure all shapes and prefix lengths, alternating, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="Runs of each way; default: %(default)s.")
    parser.add_argument("--output", type=Path, default=FILE, help="JSON file to write; default: %(default)s.")
    options = parser.parse_args()
    import torch
    import train_sides as sides

    from mtcpo.core.provenance import provenance

    rows = []
    for shape, lengths in SHAPES.items():
        loaded = sides.make_model(shape)
        for alike in ALIKE:
            settings = {**lengths, "alike": alike}
            examples = sides.pairs_of(PAIRS * STEPS, loaded.model.config.vocab_size, settings)
            seconds(loaded, examples[:2])  # warm
            times: dict[str, list[float]] = {"together": [], "apart": []}
            for number in range(options.repeats):
                # Each way comes first equally often: the second of two finds a different state of the memory.
                for way in ("together", "apart") if number % 2 else ("apart", "together"):
                    with apart() if way == "apart" else nullcontext():
                        times[way].append(seconds(loaded, examples))
            ratios = [slow / fast for slow, fast in zip(times["apart"], times["together"], strict=True)]
            tokens = statistics.mean(len(target) for example in examples for target in example.targets)
            row = {"shape": shape, "alike": alike, "tokens_of_a_target": round(tokens, 1)}
            row["times_faster"] = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
            rows.append(row | {"cpu_seconds": times})
            print(row, flush=True)
    outcome = {"rows": rows, "threads": torch.get_num_threads(), "made_by": provenance(gpus=False)}
    options.output.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
