"""Sentence-level chrF and BLEU of nine systems: a loop over sacreBLEU's sentence functions, and mtcpo.

    python eval/bench/sentence_metrics.py --output eval/results/bench/sentence-metrics.json

Data: WMT22 de-en and en-de, reference A, nine systems each. Both sides score every candidate with both metrics, and
the largest difference of their scores is reported. Times are the best of --repeats, for whole corpora, one after the
other in one process; with two workers they include starting them. CPU seconds are given too, because other work on
the machine affects the wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu
from real_data import data_folder
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from mtcpo.data.config import CorpusConfig
from mtcpo.data.corpora import read_corpus
from mtcpo.data.records import Segment
from mtcpo.metrics.scorer import Scorer

METRICS = ("chrf", "bleu")


def read(folder: Path) -> list[Segment]:
    """Return the segments of one language pair with nine systems as candidates."""
    src, tgt = folder.name.split("-")
    systems = sorted(folder.glob("system-*"))[:9]
    config = CorpusConfig(
        source=str(folder / f"source.{src}"),
        references=(str(folder / f"reference-A.{tgt}"),),
        hypotheses={path.stem.removeprefix("system-"): str(path) for path in systems},
        src_lang=src,
        tgt_lang=tgt,
    )
    return list(read_corpus(config))


def plain_loop(segments: list[Segment]) -> list[tuple[float, float]]:
    """Score with sacreBLEU's sentence functions, one call for each candidate and metric."""
    chrf, bleu = CHRF(), BLEU(effective_order=True)
    # sacreBLEU's tokenizers cache texts; every repetition starts with an empty cache.
    for tokenizer in (bleu.tokenizer, bleu.tokenizer._post_tokenizer):
        type(tokenizer).__call__.cache_clear()
    return [
        (chrf.sentence_score(c.text, list(s.references)).score, bleu.sentence_score(c.text, list(s.references)).score)
        for s in segments
        for c in s.candidates
    ]


def ours(segments: list[Segment], workers: int) -> list[tuple[float, float]]:
    """Score with mtcpo."""
    scored = Scorer(METRICS, workers).score(segments)
    return [(c.scores["chrf"], c.scores["bleu"]) for s in scored for c in s.candidates]


def timed(run: Callable[[], Any], repeats: int) -> tuple[Any, float, float]:
    """Return the result, and the best wall-clock and CPU seconds of this process and its children."""
    walls, cpus, result = [], [], None
    for _ in range(repeats):
        start, before = time.perf_counter(), os.times()
        result = run()
        after = os.times()
        walls.append(time.perf_counter() - start)
        cpus.append(sum(after[:4]) - sum(before[:4]))
    return result, min(walls), min(cpus)


def compare(folder: Path, repeats: int) -> dict[str, Any]:
    """Measure one language pair."""
    segments = read(folder)
    expected, wall, cpu = timed(lambda: plain_loop(segments), repeats)
    row: dict[str, Any] = {
        "segments": len(segments),
        "candidates": len(expected),
        "sacrebleu": {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3)},
    }
    for workers in (1, 2):
        found, own_wall, own_cpu = timed(lambda n=workers: ours(segments, n), repeats)  # type: ignore[misc]
        row[f"mtcpo_{workers}"] = {
            "wall_s": round(own_wall, 3),
            "cpu_s": round(own_cpu, 3),
            "speedup_wall": round(wall / own_wall, 2),
            "speedup_cpu": round(cpu / own_cpu, 2),
            "largest_difference": float(np.abs(np.array(found) - np.array(expected)).max()),
        }
    return row


def main() -> None:
    """Measure both language pairs and write the results with machine and versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder with WMT22's outputs; default: wmt22 in MTCPO_TEST_DATA.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each side; default: %(default)s.")
    parser.add_argument("--output", type=Path, help="JSON file to write.")
    arguments = parser.parse_args()
    data = arguments.data or data_folder("wmt22")
    found: dict[str, Any] = {pair: compare(data / pair, arguments.repeats) for pair in ("de-en", "en-de")}
    found["repeats"] = arguments.repeats
    found["load_average"] = [round(x, 2) for x in os.getloadavg()]
    found["machine"] = {"system": platform.platform(), "cores": os.cpu_count()}
    found["versions"] = {
        "python": platform.python_version(), "numpy": np.__version__, "sacrebleu": sacrebleu.__version__
    }  # fmt: skip
    print(json.dumps(found, indent=2))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
