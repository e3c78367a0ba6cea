"""Ways to a head's loss and gradients on a CPU: plain, torch's chunked one, and ours; mT5-small's head in float32.

    python eval/bench/heads.py

Each runs in a process of its own, alternating: 1024 positions, hidden 512, vocabulary 250,112, the NLL of all labels,
gradients of hidden states and weight. Memory: the most that was resident, less what was before, less both gradients.
torch's chunked function makes gradients while it goes forward, as ours does, but of one loss only: a mean or a sum. A
preference loss weights each token by a number that is known after its pair, and for that it makes all logits at once.
Cut Cross-Entropy and Liger need a GPU: not run. Result: eval/results/bench/heads.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, linear

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
POSITIONS, HIDDEN, VOCABULARY, REPEATS = 1024, 512, 250_112, 1
WAYS = ("plain", "torch chunked", "ours")


def resident() -> int:
    """Return the bytes that are resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def loss_of(way: str, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the summed NLL."""
    if way == "plain":
        return cross_entropy(linear(hidden, weight), labels, reduction="sum")
    if way == "torch chunked":
        options = torch.nn.LinearCrossEntropyOptions()
        return torch.nn.functional.linear_cross_entropy(hidden, weight, labels, reduction="sum", options=options)
    from mtcpo.models.head.fused import score_tokens
    from mtcpo.models.head.targets import LogitTransform, locate_targets

    rows = labels.view(64, -1)
    target_positions = locate_targets(rows, torch.arange(POSITIONS).view(rows.shape), 32)
    loss = score_tokens(
        hidden, weight, None, rows, target_positions, LogitTransform(), lambda part: -part.token_logps.sum()
    ).loss
    assert loss is not None
    return loss


def measure(way: str) -> dict[str, float]:
    """Return seconds, processor seconds, GiB above the gradients, and the loss."""
    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, HIDDEN).requires_grad_()
    weight = (torch.randn(VOCABULARY, HIDDEN) * HIDDEN**-0.5).requires_grad_()
    labels = torch.randint(VOCABULARY, (POSITIONS,))

    before, start, cpu = resident(), time.perf_counter(), time.process_time()
    loss = loss_of(way, hidden, weight, labels)
    loss.backward()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert hidden.grad is not None
    assert weight.grad is not None
    above = peak - before - weight.grad.nbytes - hidden.grad.nbytes
    norms = {"hidden_norm": float(hidden.grad.norm()), "weight_norm": float(weight.grad.norm())}
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "above_gib": above / 2**30, "loss": float(loss)} | norms


def main() -> None:
    """Measure all ways, alternating, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WAYS, help="Measure one in this process and print it.")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only)))
        return
    from mtcpo.core.provenance import provenance

    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(REPEATS):
        for way, found in runs.items():
            command = [sys.executable, __file__, "--only", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
            found.append(json.loads(done.stdout))
            print(way, found[-1], flush=True)
    medians = {
        way: {name: statistics.median(run[name] for run in found) for name in found[0]} for way, found in runs.items()
    }
    outcome = {"medians": medians, "runs": runs, "threads": torch.get_num_threads()}
    outcome |= {"not run": ["cut-cross-entropy", "liger-kernel"], "made_by": provenance(gpus=False)}
    file = ROOT / "eval" / "results" / "bench" / "heads.json"
    file.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
