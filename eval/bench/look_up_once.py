"""What a training step gains when source and target tokens are looked up in one call of the shared embedding.

    OMP_NUM_THREADS=1 python eval/bench/look_up_once.py

The gradient of a lookup is as large as the embedding. Encoder and decoder of mT5 share theirs, so the plain backward
pass makes two such gradients and adds them; `look_up_once` below, hooks on the embedding, makes one.

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
def look_up_once(encoder: nn.Module, decoder: nn.Module, targets: Tensor) -> Iterator[None]:
    """Let the next forward pass look source and target tokens up together.

    encoder, decoder: with one embedding weight, `embed_tokens`. targets: the ids (R, T) that the decoder is given.
    """
    embeddings = {id(part.embed_tokens): part.embed_tokens for part in (encoder, decoder)}
    rest: list[Tensor] = []
    shapes: list[torch.Size] = []

    def keep_shape(module: nn.Module, args: tuple[Any, ...]) -> None:
        shapes.append(args[0].shape)

    def join(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # The decoder's call comes second, and finds what was looked up for it.
        return (args[0][:, :0],) if rest else (torch.cat([args[0].flatten(), targets.flatten()]),)

    def part(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if rest:
            return rest.pop()
        rest.append(output[-targets.numel() :].view(*targets.shape, -1))
        return output[: -targets.numel()].view(*shapes[0], -1)

    handles = []
    for embedding in embeddings.values():
        handles += [embedding.register_forward_pre_hook(keep_shape), embedding.register_forward_pre_hook(join)]
        handles.append(embedding.register_forward_hook(part))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
    encoder, decoder = model.get_encoder(), model.get_decoder()
    with look_up_once(encoder, decoder, batch["decoder_input_ids"]) if once else nullcontext():
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
    return row | {"cpu_seconds": times}


def main() -> None:
    """Measure both shapes and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="Steps of each way; default: %(default)s.")
    parser.add_argument("--output", type=Path, default=FILE, help="JSON file to write; default: %(default)s.")
    options = parser.parse_args()
    from mtcpo.core.provenance import provenance

    rows = [measure(shape, pairs, options.repeats) for shape, pairs in SHAPES.items()]
    outcome = {"rows": rows, "threads": torch.get_num_threads(), "made_by": provenance(gpus=False)}
    options.output.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
