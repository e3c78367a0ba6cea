"""Several ways to compute the loss and gradients of the lm_head on a CPU, for mT5-small's lm_head in float32.

    python eval/bench/heads.py                                       # all ways; Liger's where liger-kernel is installed
    python eval/bench/heads.py --ways "mtcpo, CPO" "Liger, CPO"      # only these; the others in the file stay

1024 positions, hidden size 512, vocabulary 250,112, gradients of decoder states and weight; each run is a process of
its own. Memory: the peak of the resident memory, minus what was resident before, minus both gradients.

With the summed NLL of all labels: all logits at once, torch's chunked function, and mtcpo's head. torch's function
computes gradients in the forward pass, as mtcpo's does, but only of a mean or a sum over tokens. A preference loss
weights each token by a number that is known only after its pair, and for that torch's function computes all logits at
once.

With the CPO loss (sigmoid, beta 0.1, plus the mean NLL of the chosen; 32 pairs of 2 x 16 tokens): mtcpo's head, and
`LigerFusedLinearCPOLoss` of liger-kernel, which is plain PyTorch (`compiled=False`), with one and with eight pairs
per chunk.

Cut Cross-Entropy and Liger's Triton kernels need a GPU. Result: eval/results/bench/heads.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, logsigmoid

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "eval" / "results" / "bench" / "heads.json"
sys.path.insert(0, str(ROOT))
POSITIONS, HIDDEN, VOCABULARY, PAIRS = 1024, 512, 250_112, 32
BETA = 0.1


def resident() -> int:
    """Return the resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Compute all logits at once."""
    return cross_entropy(linear(hidden, weight), labels, reduction="sum")


def torch_chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Let torch choose the chunks."""
    options = torch.nn.LinearCrossEntropyOptions()
    return torch.nn.functional.linear_cross_entropy(hidden, weight, labels, reduction="sum", options=options)


def mtcpo_nll(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Compute the summed NLL with mtcpo's head."""
    return _mtcpo(hidden, weight, labels, lambda part: -part.token_logps.sum())


def mtcpo_cpo(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Compute the CPO loss with mtcpo's head; chosen rows come first."""
    chosen_tokens = POSITIONS // 2

    def loss_of_sources(part: Any) -> Tensor:
        chosen, rejected = part.token_logps.sum(1).chunk(2)
        return -logsigmoid(BETA * (chosen - rejected)).sum() / PAIRS - chosen.sum() / chosen_tokens

    return _mtcpo(hidden, weight, labels, loss_of_sources)


def _mtcpo(hidden: Tensor, weight: Tensor, labels: Tensor, objective: Callable[[Any], Tensor]) -> Tensor:
    from mtcpo.models.head.fused import score_tokens
    from mtcpo.models.head.targets import LogitTransform, locate_targets

    rows = labels.view(2 * PAIRS, -1)
    targets = locate_targets(rows, torch.arange(POSITIONS).view(rows.shape), PAIRS)
    loss = score_tokens(hidden, weight, None, rows, targets, LogitTransform(), objective).loss
    assert loss is not None
    return loss


def liger_cpo(hidden: Tensor, weight: Tensor, labels: Tensor, pairs_per_chunk: int = 1) -> Tensor:
    """Compute the CPO loss with liger-kernel."""
    from liger_kernel.chunked_loss import LigerFusedLinearCPOLoss

    loss = LigerFusedLinearCPOLoss(beta=BETA, alpha=1.0, compiled=False, chunk_size=pairs_per_chunk)
    rows = labels.view(2 * PAIRS, -1)
    value: Tensor = loss(weight, hidden.view(*rows.shape, HIDDEN), rows)[0]
    return value


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain": plain,
    "torch chunked": torch_chunked,
    "mtcpo": mtcpo_nll,
    "mtcpo, CPO": mtcpo_cpo,
    "Liger, CPO": liger_cpo,
    "Liger, CPO, 8 pairs per chunk": lambda hidden, weight, labels: liger_cpo(hidden, weight, labels, 8),
}


def measure(way: str) -> dict[str, float]:
    """Return wall-clock and processor seconds, GiB above the gradients, the loss, and the norms of both gradients."""
    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, HIDDEN).requires_grad_()
    weight = (torch.randn(VOCABULARY, HIDDEN) * HIDDEN**-0.5).requires_grad_()
    labels = torch.randint(VOCABULARY, (POSITIONS,))

    before, start, cpu = resident(), time.perf_counter(), time.process_time()
    loss = WAYS[way](hidden, weight, labels)
    loss.backward()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert hidden.grad is not None
    assert weight.grad is not None
    above = peak - before - weight.grad.nbytes - hidden.grad.nbytes
    norms = {"hidden_norm": float(hidden.grad.norm()), "weight_norm": float(weight.grad.norm())}
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "above_gib": above / 2**30,
        "loss": float(loss.detach()),
    } | norms


def main() -> None:
    """Measure the ways, alternating, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="What to measure; default: all that can run here.")
    parser.add_argument("--repeats", type=int, default=1, help="Runs of each way; default: %(default)s.")
    parser.add_argument("--output", type=Path, default=FILE, help="JSON file to write; default: %(default)s.")
    parser.add_argument("--only", choices=WAYS, help="Measure one way in this process and print the result.")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only)))
        return
    from mtcpo.core.provenance import provenance

    has_liger = importlib.util.find_spec("liger_kernel") is not None
    ways = arguments.ways or [way for way in WAYS if has_liger or not way.startswith("Liger")]
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(arguments.repeats):
        for way in ways:
            command = [sys.executable, __file__, "--only", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
            runs[way].append(json.loads(done.stdout))
            print(way, runs[way][-1], flush=True)
    made_by = provenance(gpus=False) | {"threads": torch.get_num_threads()}
    results = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else {}
    for way, measured in runs.items():
        medians = {name: statistics.median(run[name] for run in measured) for name in measured[0]}
        results[way] = {"medians": medians, "runs": measured, "made_by": made_by}
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
