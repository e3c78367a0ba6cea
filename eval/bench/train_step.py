"""Training steps of our trainer and of TRL's CPOTrainer, side by side: time, memory, and whether the losses are equal.

    python eval/bench/train_step.py                         # every row that this machine can run
    python eval/bench/train_step.py --rows cpu-mt5-small    # one of them; the others in the file stay

Every measurement is a process of its own: it makes the model (random weights, the same for both), lets the trainer
take one step of two pairs, then one epoch over the same pairs, each trainer in its own batches and with its own loop.
The sides alternate. Time is that of the epoch, from before the first batch is made to after the last optimizer step.

Memory on a CPU: the most that was ever resident, less what was resident before the first step (the interpreter, the
libraries, the weights), less gradients and optimizer state. On a GPU: the most that was allocated, less weights,
gradients and optimizer state. Losses: 20 steps of the same batches, in our sampler's order.

A machine without network needs this checkout, torch, transformers, and beside PYTHONPATH=. the wheels of TRL and of
what the image lacks of mtcpo's dependencies (see eval/results/bench/README.md); GPU rows run where there is a GPU.
Results: eval/results/bench/train-step.json, and made of that train-step.md and train-step.svg (anew by `--rows` alone).
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
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "eval" / "results" / "bench"
LOSS_STEPS = 20

CPU = {"gpu": False, "optim": "sgd", "dtype": "float32"}
GPU = {"gpu": True, "optim": "adamw_torch_fused", "dtype": "bf16"}
ALMA = {"prompt": 14, "scale": 2.0}
"""ALMA's prompt around sources twice as long as captions: about the length of news."""

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
    """Train one side for an epoch; return its time, memory and losses, or that the memory was not enough."""
    import torch
    import train_sides as sides

    loaded = sides.make_model(run["shape"])
    if run["gpu"]:
        loaded.model.to("cuda")
        torch.backends.cuda.matmul.allow_tf32 = False  # float32 rows compare losses
    steps = LOSS_STEPS if run.get("losses") else run["steps"]
    examples = sides.pairs_of(steps * run["pairs"], loaded.model.config.vocab_size, run.get("lengths", {}))
    make = sides.SIDES[run["side"]]
    make(loaded, examples[:2], run | {"pairs": 2}, 1).train()
    gc.collect()  # its optimizer
    trainer = make(loaded, _in_our_order(loaded, examples, run) if run.get("losses") else examples, run, steps)
    if run.get("losses") and run["side"] == "trl":
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    watch = _watch(trainer, run["gpu"])
    try:
        trainer.train()
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}
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
    """Return examples as our sampler takes them, which TRL is to take one after the other."""
    from mtcpo.batching import BatchLimits, LengthBatchSampler

    if run["side"] == "ours":
        return examples
    lengths = [loaded.layout.lengths(example) for example in examples]
    return [examples[i] for batch in LengthBatchSampler(lengths, BatchLimits(run["pairs"], None, 2), 0) for i in batch]


def _watch(trainer: Any, gpu: bool) -> dict[str, Any]:
    """Take the time of the epoch and keep the losses of its steps; nothing waits for the device in between."""
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
    """Return 6 x weights x the tokens that must meet them: sources once, targets, real target positions in the head.

    Attention's own products, and whatever is computed twice, do not count.
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


def run_row(name: str, row: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Let both sides alternate and put their figures together."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for _ in range(1 if row.get("losses") else row.get("repeats", repeats)):
        for side in found:
            result = _apart(row | {"side": side})
            found[side].append(result)
            print(name, side, {k: v for k, v in result.items() if k not in ("losses", "held")}, flush=True)
    runs = {side: {"runs": results} for side, results in found.items()}
    outcome: dict[str, Any] = {"settings": row} | runs
    if any("error" in result for results in found.values() for result in results):
        return outcome
    if row.get("losses"):
        both = zip(*(found[side][0]["losses"] for side in ("ours", "trl")), strict=True)
        outcome["largest_relative_difference"] = max(abs(a - b) / abs(b) for a, b in both)
    else:
        outcome |= _compared(found)
    if "largest" in row:
        outcome["largest_batch"] = {side: _largest(row | {"side": side}) for side in found}
    return outcome


def _compared(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return medians and ranges of both sides and of their ratios, run by run."""
    outcome: dict[str, Any] = {}
    for side, results in found.items():
        rates = {
            "pairs_per_second": [r["pairs"] / r["seconds"] for r in results],
            "tokens_per_second": [r["tokens"] / r["seconds"] for r in results],
            "pairs_per_cpu_second": [r["pairs"] / r["cpu_seconds"] for r in results],
            "above_gib": [r["above_bytes"] / 2**30 for r in results],
            "peak_gib": [r["peak_bytes"] / 2**30 for r in results],
        }
        outcome[f"{side}_figures"] = {name: _spread(values) for name, values in rates.items()}
    both = list(zip(found["ours"], found["trl"], strict=True))
    outcome["times_faster"] = _spread([trl["seconds"] / ours["seconds"] for ours, trl in both])
    outcome["times_less_cpu_time"] = _spread([trl["cpu_seconds"] / ours["cpu_seconds"] for ours, trl in both])
    outcome["share_of_memory"] = _spread([ours["above_bytes"] / trl["above_bytes"] for ours, trl in both])
    return outcome


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _largest(run: dict[str, Any]) -> dict[str, Any]:
    """Return the largest power of two of pairs a step that fits, and its figures."""
    pairs = run["largest"]
    while pairs:
        result = _apart(run | {"pairs": pairs, "steps": 4})
        if "error" not in result:
            return {"pairs": pairs} | result
        pairs //= 2
    return {"pairs": 0}


def _apart(run: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", json.dumps(run)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def matmul_peak() -> float:
    """Return the FLOP/s of an 8192 x 8192 x 8192 product in bfloat16, the median of ten after three."""
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
    """Return where the time of one of our steps goes: the operations that take most of it."""
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


# --- plot -------------------------------------------------------------------------------------------------------------


def draw(rows: dict[str, Any]) -> str:
    """Return the two scaling curves as SVG: pairs a second by pairs a step, and by target length."""
    panels = []
    for kind in ("cpu-mt5-small", "gpu-mt5-base"):
        for label, part in (("pairs a step", "pairs"), ("tokens of a target", "target")):
            points = {side: sorted(_points(rows, kind, part, side)) for side in ("ours", "trl")}
            if all(points.values()):
                panels.append((f"{kind}: pairs a second by {label}", points))
    width, height = 420, 260
    parts = [_panel(width * i, width, height, *panel) for i, panel in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * max(1, len(panels))} {height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        + "".join(parts) + "</svg>\n"
    )  # fmt: skip


def _points(rows: dict[str, Any], kind: str, part: str, side: str) -> list[tuple[float, float]]:
    found = []
    for name, row in rows.items():
        ends = name.removeprefix(kind).strip("-").split("-")
        if not name.startswith(kind) or f"{side}_figures" not in row:
            continue
        if part == "pairs" and (ends[-1] == "pairs" or ends == [""]):
            x = row["settings"]["pairs"]
        elif part == "target" and ends[0] == "target":
            x = int(ends[1])
        else:
            continue
        found.append((float(x), row[f"{side}_figures"]["pairs_per_second"]["median"]))
    return found


def _panel(left: float, width: float, height: float, title: str, curves: dict[str, list[tuple[float, float]]]) -> str:
    """Draw curves on a linear y axis from 0 and an x axis of equal steps, as the sizes double."""
    xs = sorted({x for points in curves.values() for x, _ in points})
    top = max(y for points in curves.values() for _, y in points) * 1.1
    x_of = lambda x: left + 50 + xs.index(x) * (width - 90) / max(1, len(xs) - 1)  # noqa: E731
    y_of = lambda y: height - 35 - y / top * (height - 75)  # noqa: E731
    parts = [f'<text x="{left + 50}" y="18" font-size="13">{title}</text>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = y_of(top * share)
        parts.append(f'<line x1="{left + 45}" x2="{left + width - 35}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left + 40}" y="{y + 4:.1f}" text-anchor="end">{top * share:.3g}</text>')
    parts += [f'<text x="{x_of(x):.1f}" y="{height - 18}" text-anchor="middle">{x:g}</text>' for x in xs]
    for (name, points), colour in zip(curves.items(), ("#1f6feb", "#8c8c8c"), strict=True):
        for (x1, y1), (x2, y2) in pairwise(points):
            parts.append(f'<line x1="{x_of(x1):.1f}" y1="{y_of(y1):.1f}" x2="{x_of(x2):.1f}" y2="{y_of(y2):.1f}" '
                         f'stroke="{colour}" stroke-width="2"/>')  # fmt: skip
        parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        x, y = points[-1]
        parts.append(f'<text x="{x_of(x) + 6:.1f}" y="{y_of(y) + 4:.1f}" fill="{colour}">{name}</text>')
    return "".join(parts)


def table(rows: dict[str, Any]) -> str:
    """Return the figures as Markdown: medians, and in brackets the least and the most of all alternations."""
    lines = [
        "| row | pairs a step | times faster | less processor time | GiB above, ours | TRL | share | goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    losses = ["", "| 20 steps from the same start | largest relative difference of a loss |", "|---|---|"]
    for name, row in rows.items():
        pairs = row["settings"]["pairs"]
        if "largest_relative_difference" in row:
            losses.append(f"| {name}, {pairs} pairs a step | {row['largest_relative_difference']:.1e} |")
        elif "times_faster" in row:
            cells = [_cell(row[key]) for key in ("times_faster", "times_less_cpu_time")]
            cells += [_cell(row[f"{side}_figures"]["above_gib"]) for side in ("ours", "trl")]
            cells.append(_cell(row["share_of_memory"]))
            speed, memory = row["settings"].get("goal") or (None, None)
            goal = [f"{speed:g} times" if speed else "", f"share {memory:.2f}" if memory else ""]
            lines.append(f"| {name} | {pairs} | {' | '.join(cells)} | {', '.join(filter(None, goal))} |")
        else:
            lines.append(f"| {name} | {pairs} | {row.get('status', 'out of memory')} | | | | | |")
    return "\n".join([*lines, *losses]) + "\n"


def _cell(value: dict[str, float]) -> str:
    only = value["least"] == value["most"]
    return f"{value['median']:.2f}" + ("" if only else f" ({value['least']:.2f}–{value['most']:.2f})")


def write(rows: dict[str, Any]) -> None:
    """Write the figures, their table and their curves."""
    rows = {name: rows[name] for name in ROWS if name in rows}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "train-step.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "train-step.md").write_text(table(rows), encoding="utf-8")
    (RESULTS / "train-step.svg").write_text(draw(rows), encoding="utf-8")


def main() -> None:
    """Measure the chosen rows and write all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", help="Names of rows, or beginnings of names; default: all that can run.")
    parser.add_argument("--repeats", type=int, default=2, help="Alternations of a row.")
    parser.add_argument("--profile", metavar="ROW", choices=ROWS, help="Write what a step of ours spends its time on.")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        sys.path.insert(0, str(Path(__file__).parent))
        print(json.dumps(measure(json.loads(arguments.measure))))
        return
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    if arguments.profile:
        text = profile(ROWS[arguments.profile])
        (RESULTS / f"profile-{arguments.profile}.txt").write_text(text, encoding="utf-8")
        return
    from importlib.metadata import version

    import torch

    from mtcpo.provenance import provenance

    file = RESULTS / "train-step.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else {}
    for name, row in ROWS.items():
        rows.setdefault(name, {"settings": row, "status": "not run"})
        if arguments.rows is not None and not any(name == end or (end.endswith("*") and name.startswith(end[:-1]))
                                                  for end in arguments.rows):  # fmt: skip
            continue
        if row["gpu"] != torch.cuda.is_available():
            continue
        made_by = provenance(gpus=True) | {"trl": version("trl"), "threads": torch.get_num_threads()}
        rows[name] = run_row(name, row, arguments.repeats) | {"made_by": made_by}
        if row["gpu"]:
            rows[name]["matmul_peak_flops"] = matmul_peak()
        write(rows)  # after each: an interrupt loses one
    write(rows)


if __name__ == "__main__":
    main()
