"""mtcpo's transformers engine against a plain loop of `generate` over batches of 32 in input order, with beam search.

    python eval/bench/generate_loop.py --model MODEL --output eval/results/bench/generate-loop.json

The sources are from Multi30k's validation set in the folder that MTCPO_TEST_DATA names. Both sides have one loaded
model and the same token ids; the loop is `plain_generate.py`, and mtcpo translates by windows, as its commands do. Runs
alternate in one process, after a warm-up of both; wall-clock and processor seconds of every run are given. Outputs are
compared source by source: they are equal up to rounding, which depends on the shape of a batch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from plain_generate import BATCH_SIZE, Clock, plain_generate, sources_of

from mtcpo.core.files import sha256_of
from mtcpo.core.provenance import provenance
from mtcpo.models.loading import load_model
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.transformers import GenerateEngine
from mtcpo.translation.translate import translate_texts

GOAL = 2.0
"""How many times as fast mtcpo should be."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the times of all runs, the ratios of their medians, and how many outputs are equal."""
    lines = (Path(os.environ["MTCPO_TEST_DATA"]) / "multi30k/val.en").read_text(encoding="utf-8").splitlines()
    segments = sources_of(lines[: options.sources], "en", "de")
    loaded = load_model(options.model, "float32")
    loaded.model.eval()
    engine = GenerateEngine(loaded, "bench")
    config = TranslateConfig(num_beams=options.beams, max_new_tokens=options.max_new_tokens)
    settings = {"num_beams": options.beams, "max_new_tokens": options.max_new_tokens, "do_sample": False}

    def loop() -> list[str]:
        return [texts[0] for texts in plain_generate(loaded, segments, **settings)]

    def ours() -> list[str]:
        return translate_texts(engine, segments, config)

    sides: dict[str, Callable[[], list[str]]] = {"generate_loop": loop, "mtcpo": ours}
    plain_generate(loaded, segments[:BATCH_SIZE], **settings)
    engine.translate(segments[:BATCH_SIZE], config)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    outputs = {}
    for _ in range(options.repeats):
        for name, run in sides.items():
            clock = Clock()
            outputs[name] = run()
            runs[name].append(clock.read())
    equal = sum(theirs == own for theirs, own in zip(outputs["generate_loop"], outputs["mtcpo"], strict=True))
    return {
        "sources": len(segments),
        "settings": settings,
        "runs": runs,
        "times_as_fast": {seconds: ratio(runs, seconds) for seconds in ("wall_s", "cpu_s")},
        "goal": GOAL,
        "equal_outputs": equal,
        "model_sha256": sha256_of(Path(options.model)),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "made_by": provenance(gpus=False),
    }


def ratio(runs: dict[str, list[dict[str, float]]], seconds: str) -> float:
    """Return median seconds of the loop / median seconds of mtcpo."""
    loop, ours = (statistics.median(run[seconds] for run in of_side) for of_side in runs.values())
    return round(loop / ours, 2)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Directory of an English-German model.")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--sources", type=int, default=1000, help="Default: %(default)s.")
    parser.add_argument("--beams", type=int, default=4, help="Default: %(default)s.")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="Default: %(default)s.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each side; default: %(default)s.")
    options = parser.parse_args()
    result = measure(options)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
