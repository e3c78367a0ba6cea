"""Sampling eight candidates per source: `generate(do_sample=True)` of transformers, and mtcpo.

    python eval/bench/sampling.py --output eval/results/bench/sampling.json

Random mT5 models of two sizes (the demo's, and mT5-small with its vocabulary of 250,112) use the same epsilon
sampling, the same fixed number of new tokens and the same sources. Runs alternate in one process; wall-clock and
processor seconds are given as median and range.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import MT5Config, MT5ForConditionalGeneration

from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.logits import uniform_numbers
from mtcpo.translation.engines.transformers import GenerateEngine

SHAPES: dict[str, dict[str, Any]] = {
    "demo": {"vocab_size": 3000, "d_model": 128, "d_kv": 32, "d_ff": 384, "num_layers": 2, "num_heads": 4},
    "mt5-small": {"vocab_size": 250_112, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
}
SOURCES = {"demo": 32, "mt5-small": 4}
CANDIDATES, SOURCE_TOKENS, NEW_TOKENS = 8, 14, 16


class Plain:
    """What the engine needs of a loaded model and its layout, without a tokenizer: token ids in and out."""

    def __init__(self, model: MT5ForConditionalGeneration) -> None:
        self.model, self.device = model, model.device
        self.layout = self.tokenizer = self

    def new_tokens(self, sequences: torch.Tensor, batch: object) -> torch.Tensor:
        """Return all of them."""
        return sequences

    def batch_decode(self, tokens: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        """Return one text per row."""
        return [str(row[:4].tolist()) for row in tokens]


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(shape: str, repeats: int) -> dict[str, Any]:
    """Return medians and ranges of both ways, and their ratios."""
    torch.manual_seed(1)
    model = MT5ForConditionalGeneration(MT5Config(**SHAPES[shape])).eval()
    model.generation_config.eos_token_id = None  # no sample ends early, so both ways do the same work
    inputs = {
        "input_ids": torch.randint(5, SHAPES[shape]["vocab_size"], (SOURCES[shape], SOURCE_TOKENS)),
        "attention_mask": torch.ones(SOURCES[shape], SOURCE_TOKENS, dtype=torch.int64),
    }
    config = TranslateConfig(num_candidates=CANDIDATES, sampling="epsilon", epsilon=0.02, max_new_tokens=NEW_TOKENS)
    engine = GenerateEngine(Plain(model), "bench")  # type: ignore[arg-type]
    settings = {"max_new_tokens": NEW_TOKENS, "max_length": None, "do_sample": False, "num_beams": 1}

    def theirs() -> None:
        model.generate(
            **inputs, do_sample=True, epsilon_cutoff=config.epsilon, top_k=0, top_p=1.0,
            num_return_sequences=CANDIDATES, max_new_tokens=NEW_TOKENS,
        )  # fmt: skip

    def ours() -> None:
        # Drawing the random numbers is part of the work.
        uniforms = uniform_numbers([str(n) for n in range(SOURCES[shape])], config, draw=0)
        engine._sampled(inputs, dict(settings), config, uniforms)

    with torch.inference_mode():
        runs = {"generate": theirs, "mtcpo": ours}
        for run in runs.values():
            run()
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                times[name].append(timed(run))
    result: dict[str, Any] = {"rows": SOURCES[shape] * CANDIDATES, "new_tokens": NEW_TOKENS}
    for kind, which in (("wall_s", 0), ("cpu_s", 1)):
        for name, of_name in times.items():
            values = [pair[which] for pair in of_name]
            result.setdefault(name, {})[kind] = {
                "median": round(statistics.median(values), 3),
                "range": [round(min(values), 3), round(max(values), 3)],
            }
        ratio = result["generate"][kind]["median"] / result["mtcpo"][kind]["median"]
        result["ratio_" + kind.removesuffix("_s")] = round(ratio, 2)
    return result


def main() -> None:
    """Measure both sizes and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--repeats", type=int, default=5, help="Runs of each way; default: %(default)s.")
    options = parser.parse_args()
    result = {shape: measure(shape, options.repeats) for shape in SHAPES} | {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        },
    }  # fmt: skip
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
