"""Memory and time of `train` by number of pairs, without a token cache and with one.

    python eval/bench/tokenization.py

Synthetic pairs of the demo's words, a small mT5, three steps of 16 pairs; the pairs are generated one at a time, as
if read from a file. Each size runs twice in processes of their own: first with an empty cache, then with the cache of
the first run. Memory is the peak of the resident memory while texts are tokenized and trained on, and the part of it
that is the process's own (the rest are mapped files, which the system can take back). Also measured: the time to read
an example in random order. Result: eval/results/bench/tokenization.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SIZES = (10_000, 500_000)


def words() -> list[str]:
    """Return the words of the demo."""
    text = (ROOT / "data" / "demo" / "train.de").read_text(encoding="utf-8")
    return sorted(set(text.split()))


def texts(count: int) -> Iterator[Any]:
    """Yield different pairs with 8 to 20 words on each side."""
    from mtcpo.models.prompts import TextExample

    rng, known = random.Random(0), words()
    sentence = lambda: " ".join(rng.choices(known, k=rng.randint(8, 20)))  # noqa: E731
    for number in range(count):
        yield TextExample(sentence(), "en", "de", (sentence(), sentence()), id=str(number))


class Watch(threading.Thread):
    """Sample the memory of this process every 50 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.most = {"RssAnon": 0, "RssFile": 0}

    def run(self) -> None:
        """Keep the maximum of each kind until done."""
        while not self.done.wait(0.05):
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.most:
                    self.most[name] = max(self.most[name], int(value.split()[0]))


def measure(model: Path, count: int) -> dict[str, Any]:
    """Train on that many pairs in this process."""
    from mtcpo.training import examples
    from mtcpo.training import train as training
    from mtcpo.training.config import TrainConfig

    settings = TrainConfig(args={"max_steps": 3, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True})
    found: dict[str, Any] = {"pairs": count}
    encode_within_limits = examples.encode_within_limits

    def timed(*args: Any) -> Any:
        start = time.perf_counter(), time.process_time()
        encoded = encode_within_limits(*args)
        found["seconds"] = round(time.perf_counter() - start[0], 1)
        found["cpu_seconds"] = round(time.process_time() - start[1], 1)
        places = random.Random(0).choices(range(len(encoded.examples)), k=20_000)
        reading = time.process_time()
        for place in places:
            encoded.examples[place]
        found["cpu_microseconds_an_example"] = round((time.process_time() - reading) / len(places) * 1e6, 1)
        return encoded

    examples.encode_within_limits = timed
    watch = Watch()
    watch.start()
    with tempfile.TemporaryDirectory() as folder:
        report = training.train(str(model), texts(count), settings, Path(folder) / "out")
    watch.done.set()
    found["examples"] = report["examples"]
    return found | {f"{name}_mib": round(kib / 1024, 1) for name, kib in watch.most.items()}


def main() -> None:
    """Measure every size twice and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, help="Measure one size in this process and print its row.")
    parser.add_argument("--model", type=Path, help="The model for that measurement.")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.model, arguments.only)))
        return
    from mtcpo.core.provenance import provenance
    from mtcpo.models.creation import CreateConfig, create_model

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.mkdir()
        create_model(CreateConfig(vocab_size=800, d_model=64, d_ff=128), words(), model)
        for size in SIZES:
            for found in (False, True):
                environment = os.environ | {"HF_DATASETS_CACHE": f"{folder}/{size}", "OMP_NUM_THREADS": "1"}
                command = [sys.executable, __file__, "--only", str(size), "--model", str(model)]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                rows.append({"found": found} | json.loads(done.stdout.splitlines()[-1]))
                print(rows[-1], flush=True)
            stored = sum(path.stat().st_size for path in Path(folder, str(size)).rglob("*") if path.is_file())
            rows[-1]["stored_mib"] = round(stored / 2**20, 1)
    outcome = {"rows": rows, "made_by": provenance(gpus=False)}
    file = ROOT / "eval" / "results" / "bench" / "tokenization.json"
    file.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
