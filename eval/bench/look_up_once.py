"""What a training step gains when source and target tokens are looked up in one call of the shared embedding.

    OMP_NUM_THREADS=1 python eval/bench/look_up_once.py

The gradient of a lookup is as large as the embedding. Encoder and decoder of mT5 share theirs, so the plain backward
pass makes two such gradients and adds them; `look_up_once` (mtcpo/models/layouts/encode_once.py) makes one.

Two shapes: mT5-small with 8 pairs (see train_sides.py), where the embedding has 128 million weights, and the model of
the demo with 32 pairs. A step is: forward pass and loss, backward pass, SGD. Both ways alternate in one process on the
same batches, in pairs, each way first equally often; measured is processor time. Result:
eval/results/bench/look-up-once.json.
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

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
FILE = ROOT / "eval" / "results" / "bench" / "look-up-once.json"
REPEATS = 20
SHAPES = {"mt5-small": 8, "demo": 32}
"""Shape -> pairs of a step."""


@contextmanager
def plain_lookups() -> Iterator[None]:
    """Switch the joint lookup off: sources and targets are looked up by themselves."""
    from mtcpo.models.layouts import encoder_decoder

    kept = encoder_decoder.look_up_once
    encoder_decoder.look_up_once = lambda *args: nullcontext()
    try:
        yield
    finally:
        encoder_decoder.look_up_once = kept


def make_shape(shape: str) -> Any:
    """Return the model of a shape, with random weights."""
    import train_sides as sides

    if shape == "demo":
        # The sizes of [model.create], which the demo's recipe leaves as they are.
        sides.SHAPES["demo"] = lambda: small_mt5(192, 512, 2, 4)
    return sides.make_model(shape)


def small_mt5(width: int, inner: int, layers: int, heads: int) -> nn.Module:
    """Return an mT5 with a vocabulary of 2,000."""
    from transformers import MT5Config, MT5ForConditionalGeneration

    config = MT5Config(
        vocab_size=2000, d_model=width, d_kv=width // heads, d_ff=inner, num_layers=layers, num_heads=heads,
        decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return MT5ForConditionalGeneration(config)


def seconds(loaded: Any, batch: dict[str, Any], optimizer: torch.optim.Optimizer, once: bool) -> float:
    """Return the processor seconds of a step."""

    def objective(part: Any) -> Tensor:
        chosen, rejected = part.token_logps.sum(1).chunk(2)
        preference = -nn.functional.logsigmoid(0.1 * (chosen - rejected)).sum()
        loss: Tensor = preference - chosen.sum()
        return loss

    model = loaded.model
    start = time.process_time()
    with nullcontext() if once else plain_lookups():
        scores = loaded.layout.score(model, loaded.head, batch, objective)
    scores.loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - start


def measure(shape: str, pairs: int, repeats: int) -> dict[str, Any]:
    """Return the times of both ways, and how much the joint lookup saves."""
    import train_sides as sides

    loaded = make_shape(shape)
    optimizer = torch.optim.SGD(loaded.model.parameters(), lr=1e-6)
    examples = sides.pairs_of(pairs * repeats, loaded.model.config.vocab_size, {})
    times: dict[str, list[float]] = {"once": [], "twice": []}
    for number in range(-1, repeats):
        batch = loaded.layout.collate(examples[max(0, number) * pairs :][:pairs])
        order = ("once", "twice") if number % 2 else ("twice", "once")
        taken = {way: seconds(loaded, batch, optimizer, once=way == "once") for way in order}
        if number < 0:
            continue  # to warm up
        for way, value in taken.items():
            times[way].append(value)
    saved = [1 - once / twice for once, twice in zip(times["once"], times["twice"], strict=True)]
    row: dict[str, Any] = {"shape": shape, "pairs": pairs, "repeats": repeats}
    row["cpu_seconds_median"] = {way: round(statistics.median(values), 4) for way, values in times.items()}
    low, middle, high = statistics.quantiles(saved, n=4)
    row["share_saved"] = {"quartile_1": round(low, 4), "median": round(middle, 4), "quartile_3": round(high, 4)}
    print(row, flush=True)
    return row


def main() -> None:
    """Measure both shapes and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="Steps of each way; default: %(default)s.")
    parser.add_argument("--shape", action="append", choices=list(SHAPES), help="One of the shapes; default: both.")
    parser.add_argument("--output", type=Path, default=FILE, help="JSON file to write; default: %(default)s.")
    options = parser.parse_args()
    from mtcpo.core.provenance import provenance

    shapes = options.shape or list(SHAPES)
    rows = [measure(shape, SHAPES[shape], options.repeats) for shape in shapes]
    outcome = {"rows": rows, "threads": torch.get_num_threads(), "made_by": provenance(gpus=False)}
    options.output.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
