"""Training steps of mtcpo's trainer and of TRL's CPOTrainer compared: time, memory, and agreement of the losses.

    python eval/bench/train_step.py                         # every row that this machine can run
    python eval/bench/train_step.py --rows cpu-mt5-small    # one of them; the others in the file stay

Each measurement is a process of its own: it makes the model (random weights, the same for both sides), lets the
trainer take one step of two pairs, then trains one epoch on the same pairs; each trainer uses its own batches and its
own loop. The sides alternate. The time is that of the epoch, from before the first batch is made until after the last
optimizer step.

Memory on a CPU: the peak of the resident memory, minus what was resident before the first step (interpreter,
packages, weights), minus gradients and optimizer state. On a GPU: the peak of the allocated memory, minus weights,
gradients and optimizer state. Losses: 20 steps with the same batches, in the order of mtcpo's sampler.

A machine without network needs this checkout (PYTHONPATH=.), torch, transformers, and the wheels of TRL and of those
dependencies of mtcpo that the image lacks (see eval/results/bench/README.md). GPU rows run where there is a GPU.
Results: eval/results/bench/train-step.json, and train-step.md and train-step.svg, which are made from it (`--rows`
with no names makes only these two).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "eval" / "results" / "bench"
LOSS_STEPS = 20
OUT_OF_MEMORY = "out of memory"

CPU = {"gpu": False, "optim": "sgd", "dtype": "float32"}
GPU = {"gpu": True, "optim": "adamw_torch_fused", "dtype": "bf16"}
ALMA = {"prompt": 14, "scale": 2.0}
"""ALMA's prompt with sources twice as long as captions: about the length of news sentences."""

ROWS: dict[str, dict[str, Any]] = {
    "cpu-mt5-small": CPU | {"shape": "mt5-small", "pairs": 32, "steps": 3, "goal": (3.0, 1 / 4)},
    "cpu-mt5-small-adamw": CPU
    | {"shape": "mt5-small", "pairs": 8, "steps": 2, "repeats": 1, "optim": "adamw_torch_fused"},
    "cpu-mt5-small-alike": CPU
    | {"shape": "mt5-small", "pairs": 8, "steps": 2, "repeats": 1, "lengths": {"alike": 3}},
    "cpu-marian": CPU | {"shape": "marian", "pairs": 32, "steps": 3},
    "cpu-decoder-only": CPU
    | {"shape": "qwen2-small", "pairs": 8, "steps": 3, "lengths": ALMA, "goal": (1.6, 1 / 3)},
    **{
        f"cpu-{name}-losses": CPU | {"shape": shape, "pairs": 2, "losses": True, "lengths": lengths}
        for name, shape, lengths in (
            ("mt5-small", "mt5-small", {}), ("marian", "marian", {}), ("decoder-only", "qwen2-small", ALMA)
        )
    },
    **{
        f"cpu-mt5-small-{pairs}-pairs": CPU | {"shape": "mt5-small", "pairs": pairs, "steps": 2, "repeats": 1}
        for pairs in (2, 4, 8, 16)
    },
    **{
        f"cpu-mt5-small-target-{length}": CPU
        | {"shape": "mt5-small", "pairs": 2, "steps": 2, "repeats": 1, "lengths": {"target": length}}
        for length in (8, 16, 32, 64, 128)
    },
    **{
        f"gpu-{shape}": GPU | {"shape": shape, "pairs": pairs, "steps": 8, "goal": (3.0, None), "largest": 1024}
        for shape, pairs in (("mt5-small", 32), ("mt5-base", 32), ("marian", 64))
    },
    "gpu-decoder-only": GPU | {"shape": "qwen2-0.5b", "pairs": 32, "steps": 8, "lengths": ALMA, "largest": 1024},
    **{
        f"gpu-{shape}-losses": GPU | {"shape": shape, "pairs": 8, "losses": True, "dtype": "float32"}
        for shape in ("mt5-small", "mt5-base")
    },
    **{
        f"gpu-mt5-base-{pairs}-pairs": GPU | {"shape": "mt5-base", "pairs": pairs, "steps": 8, "repeats": 1}
        for pairs in (8, 128, 512)
    },
    **{
        f"gpu-mt5-base-target-{length}": GPU
        | {"shape": "mt5-base", "pairs": 32, "steps": 4, "repeats": 1, "lengths": {"target": length}}
        for length in (16, 64, 256)
    },
}  # fmt: skip

# --- one measurement, in a process of its own -------------------------------------------------------------------------


def measure(run: dict[str, Any]) -> dict[str, Any]:
    """Return the results of an epoch or the matmul peak, whichever `run` asks for, or that memory ran out."""
    import torch

    try:
        return {"flops": matmul_peak()} if run.get("peak") else epoch(run)
    except torch.OutOfMemoryError:
        return {"error": OUT_OF_MEMORY}


def epoch(run: dict[str, Any]) -> dict[str, Any]:
    """Train one side for an epoch; return its time, memory and losses."""
    import torch
    import train_sides as sides

    loaded = sides.make_model(run["shape"])
    if run["gpu"]:
        loaded.model.to("cuda")
        torch.backends.cuda.matmul.allow_tf32 = False  # float32 rows compare losses
    steps = LOSS_STEPS if run.get("losses") else run["steps"]
    examples = sides.pairs_of(steps * run["pairs"], loaded.model.config.vocab_size, run.get("lengths", {}))
    make = sides.SIDES[run["side"]]
    if run["gpu"] and not run.get("losses"):
        make(
            loaded, examples, run, steps
        ).train()  # warm-up: kernels are chosen and memory is allocated for these shapes
    else:
        make(loaded, examples[:2], run | {"pairs": 2}, 1).train()
    gc.collect()  # frees the optimizer of the warm-up
    trainer = make(loaded, _in_our_order(loaded, examples, run) if run.get("losses") else examples, run, steps)
    if run.get("losses") and run["side"] == "trl":
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    watch = _watch(trainer, run["gpu"])
    trainer.train()
    held = _held(loaded.model, trainer.optimizer)
    if run["gpu"]:
        peak = torch.cuda.max_memory_allocated()
        above = peak - sum(held.values())
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        above = peak - watch["resident"] - held["gradients"] - held["optimizer"]
    pairs, tokens = len(examples), sum(example.tokens for example in examples)
    return {
        "seconds": watch["seconds"], "cpu_seconds": watch["cpu_seconds"], "pairs": pairs, "tokens": tokens,
        "peak_bytes": peak, "above_bytes": above, "held": held,
        "losses": [float(loss) for loss in watch["losses"]],
        "useful_flops": _useful_flops(loaded.model, examples),
    }  # fmt: skip


def _in_our_order(loaded: Any, examples: list[Any], run: dict[str, Any]) -> list[Any]:
    """Return the examples in the order of mtcpo's sampler; TRL takes them sequentially."""
    from mtcpo.training.batching import BatchLimits, LengthBatchSampler

    if run["side"] == "ours":
        return examples
    lengths = [loaded.layout.lengths(example) for example in examples]
    return [examples[i] for batch in LengthBatchSampler(lengths, BatchLimits(run["pairs"], None, 2), 0) for i in batch]


def _watch(trainer: Any, gpu: bool) -> dict[str, Any]:
    """Record the time of the epoch and the losses of its steps, without synchronizing with the device in between."""
    import torch
    from transformers import TrainerCallback

    found: dict[str, Any] = {"losses": []}

    class Watch(TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            trainer.model.zero_grad()
            found["resident"] = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            if gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            found["start"] = time.perf_counter(), time.process_time()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            if gpu:
                torch.cuda.synchronize()
            start = found.pop("start")
            found["seconds"], found["cpu_seconds"] = time.perf_counter() - start[0], time.process_time() - start[1]

    step = trainer.training_step

    def keep_loss(*args: Any, **kwargs: Any) -> Any:
        loss = step(*args, **kwargs)
        found["losses"].append(loss.detach())
        return loss

    trainer.training_step = keep_loss
    trainer.add_callback(Watch())
    return found


def _held(model: Any, optimizer: Any) -> dict[str, int]:
    """Return the bytes of weights, gradients and optimizer state."""
    size = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    parameters = list(model.parameters())
    state = [t for values in optimizer.state.values() for t in values.values() if hasattr(t, "numel")]
    return {
        "weights": size(parameters),
        "gradients": size(p for p in parameters if p.requires_grad),
        "optimizer": size(state),
    }


def _useful_flops(model: Any, examples: list[Any]) -> int:
    """Return 6 x weights x tokens that need them: sources once, targets, and real target positions in the lm_head.

    The products inside attention, and anything that is computed twice, do not count.
    """
    head = model.get_output_embeddings().weight.numel()
    tables = {p.data_ptr(): p.numel() for m in (model.get_input_embeddings(), model.get_output_embeddings())
              for p in m.parameters()}  # fmt: skip
    sources = sum(len(example.source) for example in examples)
    targets = sum(len(target) for example in examples for target in example.targets)
    if model.config.is_encoder_decoder:
        tops = {id(module): module for module in (model.get_encoder(), model.get_decoder())}
        size = [sum(p.numel() for p in m.parameters() if p.data_ptr() not in tables) for m in tops.values()]
        layers = size[0] * sources + size[1] * targets
    else:
        layers = sum(p.numel() for p in model.parameters() if p.data_ptr() not in tables) * (sources + targets)
    return 6 * (layers + head * targets)


# --- rows -------------------------------------------------------------------------------------------------------------


def run_row(name: str, row: dict[str, Any], repeats: int, peak: float | None) -> dict[str, Any]:
    """Run both sides alternately and combine their results. peak: FLOP/s of matrix products on the GPU."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for _ in range(1 if row.get("losses") else row.get("repeats", repeats)):
        for side in found:
            result = _apart(row | {"side": side})
            found[side].append(result)
            print(name, side, {k: v for k, v in result.items() if k not in ("losses", "held")}, flush=True)
    runs = {side: {"runs": results} for side, results in found.items()}
    outcome: dict[str, Any] = {"settings": row} | runs | ({"matmul_peak_flops": peak} if peak else {})
    whole = {side: results for side, results in found.items() if not any("error" in result for result in results)}
    if not row.get("losses"):
        outcome |= _compared(whole, peak)
    elif len(whole) == len(found):
        both = zip(*(found[side][0]["losses"] for side in ("ours", "trl")), strict=True)
        outcome["largest_relative_difference"] = max(abs(a - b) / abs(b) for a, b in both)
    if "largest" in row:
        outcome["largest_batch"] = {side: _largest(row | {"side": side}) for side in found}
    return outcome


def _compared(found: dict[str, list[dict[str, Any]]], peak: float | None) -> dict[str, Any]:
    """Return medians and ranges of each side, and of their ratios by run if both sides succeeded."""
    outcome: dict[str, Any] = {}
    for side, results in found.items():
        rates = {
            "pairs_per_second": [r["pairs"] / r["seconds"] for r in results],
            "tokens_per_second": [r["tokens"] / r["seconds"] for r in results],
            "pairs_per_cpu_second": [r["pairs"] / r["cpu_seconds"] for r in results],
            "above_gib": [r["above_bytes"] / 2**30 for r in results],
            "peak_gib": [r["peak_bytes"] / 2**30 for r in results],
        }
        if peak:
            rates["share_of_peak"] = [r["useful_flops"] / r["seconds"] / peak for r in results]
        outcome[f"{side}_figures"] = {name: _spread(values) for name, values in rates.items()}
    if len(found) < 2:
        return outcome
    both = list(zip(found["ours"], found["trl"], strict=True))
    outcome["times_faster"] = _spread([trl["seconds"] / ours["seconds"] for ours, trl in both])
    outcome["times_less_cpu_time"] = _spread([trl["cpu_seconds"] / ours["cpu_seconds"] for ours, trl in both])
    outcome["share_of_memory"] = _spread([ours["above_bytes"] / trl["above_bytes"] for ours, trl in both])
    return outcome


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _largest(run: dict[str, Any]) -> dict[str, Any]:
    """Return the largest power of two of pairs per step that fits, with its results, or the last error.

    Any error counts as too large: a matrix product without workspace and an index beyond 32 bits have errors of their
    own. The outcome for each size is kept.
    """
    pairs, tried = run["largest"], dict[str, str]()
    while pairs:
        result = _apart(run | {"pairs": pairs, "steps": 4})
        print(run["shape"], run["side"], pairs, result.get("error", "fits"), flush=True)
        if "error" not in result:
            return result | {"pairs_a_step": pairs, "too_large": tried}
        tried[str(pairs)] = result["error"]
        pairs //= 2
    return {"pairs_a_step": 0, "too_large": tried, "error": "not even one pair fits"}


def _apart(run: dict[str, Any]) -> dict[str, Any]:
    """Measure in a process of its own, so that all memory is freed; if it fails, return the last line of its error."""
    command = [sys.executable, __file__, "--measure", json.dumps(run)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr, flush=True)
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return {"error": OUT_OF_MEMORY if done.returncode == -9 else f"exit {done.returncode}, {last[0][:200]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def matmul_peak() -> float:
    """Return the FLOP/s of an 8192 x 8192 x 8192 product in bfloat16: the median of ten, after three for warm-up."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(13):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * 8192**3 / statistics.median(times[3:])


def profile(row: dict[str, Any]) -> str:
    """Return the operations that take most of the time of one of mtcpo's steps, as a table."""
    import torch
    import train_sides as sides

    loaded = sides.make_model(row["shape"])
    examples = sides.pairs_of(row["pairs"], loaded.model.config.vocab_size, row.get("lengths", {}))
    sides.our_trainer(loaded, examples[:2], row | {"pairs": 2}, 1).train()
    trainer = sides.our_trainer(loaded, examples, row, 1)
    with torch.profiler.profile(record_shapes=True) as found:
        trainer.train()
    events = found.key_averages(group_by_input_shape=True)
    options = {"sort_by": "self_cpu_time_total", "row_limit": 30, "max_shapes_column_width": 70}
    text = str(events.table(max_name_column_width=40, **options))
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


# --- all rows ---------------------------------------------------------------------------------------------------------


def write(rows: dict[str, Any]) -> None:
    """Write the results as JSON, table and plot."""
    import train_report as report

    rows = {name: rows[name] for name in ROWS if name in rows}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "train-step.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "train-step.md").write_text(report.table(rows), encoding="utf-8")
    (RESULTS / "train-step.svg").write_text(report.draw(rows), encoding="utf-8")


def main() -> None:
    """Measure the selected rows and write all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", nargs="*", help="Names of rows; a name that ends in * selects all that begin so. Default: all."
    )
    parser.add_argument("--repeats", type=int, default=2, help="Runs of each side; default: %(default)s.")
    parser.add_argument("--profile", metavar="ROW", choices=ROWS, help="Write a profile of a step of mtcpo instead.")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    if arguments.measure:
        print(json.dumps(measure(json.loads(arguments.measure))))
    elif arguments.profile:
        text = profile(ROWS[arguments.profile])
        (RESULTS / f"profile-{arguments.profile}.txt").write_text(text, encoding="utf-8")
    else:
        run_rows(arguments.rows, arguments.repeats)


def run_rows(chosen: list[str] | None, repeats: int) -> None:
    """Run the selected rows that this machine can run; the other rows in the file stay as they are."""
    from importlib.metadata import version

    import torch

    from mtcpo.core.provenance import provenance

    file = RESULTS / "train-step.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else {}
    gpu = torch.cuda.is_available()
    wanted = [name for name, row in ROWS.items() if row["gpu"] == gpu and (chosen is None or any(
        name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in chosen))]  # fmt: skip
    peak = _apart({"peak": True})["flops"] if gpu and wanted else None
    for name, row in ROWS.items():
        rows.setdefault(name, {"settings": row, "status": "not run"})
    for name in wanted:
        made_by = provenance(gpus=True) | {"trl": version("trl"), "threads": torch.get_num_threads()}
        rows[name] = run_row(name, ROWS[name], repeats, peak) | {"made_by": made_by}
        write(rows)  # after each row, so that an interrupt loses one row at most
    write(rows)


if __name__ == "__main__":
    main()
