"""Several ways to compute the loss and gradients of the lm_head on a CPU, for mT5-small's lm_head in float32.

    python eval/bench/heads.py

All logits at once, torch's chunked function, and mtcpo's. Each runs in its own process, alternating: 1024 positions,
hidden size 512, vocabulary 250,112, the NLL of all labels, gradients of decoder states and weight. Memory: the peak
of the resident memory, minus what was resident before, minus both gradients. torch's chunked function computes
gradients in the forward pass, as mtcpo's does, but only of a mean or a sum over tokens. A preference loss weights
each token by a number that is known only after its pair, and for that torch's function computes all logits at once.
Result: eval/results/bench/heads.json.
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
    """Return the resident memory in bytes."""
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
    """Return wall-clock and processor seconds, GiB above the gradients, the loss, and the norms of both gradients."""
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
    """Measure all ways, alternating, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WAYS, help="Measure one way in this process and print the result.")
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
