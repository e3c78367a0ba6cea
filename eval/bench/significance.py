"""Time of mtcpo's significance tests, and agreement with sacreBLEU's, on WMT22 de-en (wmt22 in MTCPO_TEST_DATA).

    python eval/bench/significance.py --output eval/results/significance/wmt22-de-en.json

Two systems, references A and B, BLEU and chrF: 10,000 resamples (or swaps) with each implementation, one thread. The
times do not include counting n-grams; p-values are compared with sacreBLEU's default seed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SACREBLEU_SEED"] = "12345"

import numpy as np
from real_data import data_folder
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from mtcpo.evaluation.significance import (
    bootstrap_p_value,
    bootstrap_scores,
    randomization_p_value,
    randomized_differences,
)
from mtcpo.evaluation.testsets.loading import load_local_set
from mtcpo.evaluation.testsets.testset import TestSetConfig
from mtcpo.metrics.registry import load_metric

SYSTEMS = ("Online-W", "Online-B")  # close to each other, so that p-values are not extreme
SEED, RESAMPLES = 12345, 10_000
NAMES = {"bleu": "BLEU", "chrf": "chrF2"}


def lines(name: str) -> list[str]:
    """Return the lines of a file of the test set."""
    return (data_folder("wmt22/de-en") / name).read_text(encoding="utf-8").splitlines()


def ours() -> dict[str, Any]:
    """Return seconds and p-values of mtcpo."""
    data = data_folder("wmt22/de-en")
    references = tuple(str(data / f"reference-{label}.en") for label in "AB")
    config = TestSetConfig(
        name="wmt22", source=str(data / "source.de"), references=references, src_lang="de", tgt_lang="en"
    )
    segments = load_local_set(config).segments
    metrics = {name: load_metric(name, "en") for name in NAMES}
    outputs = [lines(f"system-{system}.en") for system in SYSTEMS]
    tables = {name: [metric.statistics(texts, segments) for texts in outputs] for name, metric in metrics.items()}
    flat = [table for pair in tables.values() for table in pair]
    scorers = [metric.corpus_score for metric in metrics.values() for _ in SYSTEMS]
    started = time.perf_counter()
    resampled = bootstrap_scores(flat, scorers, RESAMPLES, SEED)
    bootstrap = time.perf_counter() - started
    started = time.perf_counter()
    swapped = randomized_differences([(a, b) for a, b in tables.values()], scorers[::2], RESAMPLES, SEED)
    randomisation = time.perf_counter() - started
    p_values = {}
    for at, (name, metric) in enumerate(metrics.items()):
        base, other = (float(metric.corpus_score(table.sum(axis=0))) for table in tables[name])
        differences = resampled[2 * at + 1] - resampled[2 * at]
        p_values[name] = {
            "delta": other - base,
            "bootstrap": bootstrap_p_value(differences, other - base),
            "randomisation": randomization_p_value(swapped[at], other - base),
        }
    return {
        "segments": len(segments), "seconds_bootstrap": bootstrap, "seconds_randomisation": randomisation,
        "p_values": p_values,
    }  # fmt: skip


def sacrebleus(kind: str) -> dict[str, Any]:
    """Return seconds and p-values of sacreBLEU's paired bootstrap ("bs") or approximate randomization ("ar")."""
    systems = [(system, lines(f"system-{system}.en")) for system in SYSTEMS]
    references = [lines(f"reference-{label}.en") for label in "AB"]
    test = PairedTest(systems, {"BLEU": BLEU(), "chrF2": CHRF()}, references, kind, n_samples=RESAMPLES)
    started = time.perf_counter()
    _, scores = test()
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    for metric in (BLEU(), CHRF()):
        metric._extract_corpus_statistics(systems[1][1], references)
    counting = time.perf_counter() - started
    p_values = {ours: scores[theirs][1].p_value for ours, theirs in NAMES.items()}
    return {"seconds": seconds - counting, "seconds_counting": counting, "p_values": p_values}


def main() -> None:
    """Run both and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write.")
    output = parser.parse_args().output
    versions = {name: metadata.version(name) for name in ("numpy", "sacrebleu")}
    document = {
        "test_set": "wmt22 de-en, references A and B", "systems": SYSTEMS, "metrics": list(NAMES),
        "resamples": RESAMPLES, "seed": SEED, "mtcpo": ours(),
        "sacrebleu": {"bootstrap": sacrebleus("bs"), "randomisation": sacrebleus("ar")},
        "threads": int(os.environ["OMP_NUM_THREADS"]), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions | {"python": platform.python_version()}, "numpy_blas": _blas(),
    }  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=2))


def _blas() -> str:
    config: Any = np.show_config(mode="dicts")
    return str(config["Build Dependencies"]["blas"]["name"])


if __name__ == "__main__":
    main()
