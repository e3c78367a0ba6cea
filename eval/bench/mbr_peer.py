"""The side of mbrs in eval/bench/mbr.py; it runs in an environment that has mbrs, and not mtcpo.

    python mbr_peer.py CANDIDATES.json METRIC

METRIC: chrf, fastchrf (chrF in Rust), or the checkpoint file of a COMET model. The file has [source, candidates] for
each source. For each line on standard input, all sources are decoded once; the answer is one line of JSON: the winners'
indices, and the seconds of processor and wall-clock time.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import mbrs.metrics.comet
from mbrs.decoders import DecoderMBR
from mbrs.metrics import MetricChrF, MetricCOMET


def load_metric(name: str) -> Any:
    """Return mbrs' metric; chrF with one worker process for each source, the least it takes."""
    if name in ("chrf", "fastchrf"):
        return MetricChrF(MetricChrF.Config(num_workers=1, fastchrf=name == "fastchrf"))
    # mbrs takes names on the hub alone; the file is already here.
    mbrs.metrics.comet.download_model = str
    return MetricCOMET(MetricCOMET.Config(model=name, cpu=True))


def main() -> None:
    """Answer until the input ends."""
    # mbrs and COMET print to standard output, which has the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    decoder = DecoderMBR(DecoderMBR.Config(), load_metric(sys.argv[2]))
    for _ in sys.stdin:
        before, started = os.times(), time.perf_counter()
        winners = [decoder.decode(texts, texts, source).idx[0] for source, texts in rows]
        after = os.times()
        # Worker processes included, which have ended.
        cpu = sum(after[:4]) - sum(before[:4])
        answer = {"winners": winners, "cpu": cpu, "wall": time.perf_counter() - started}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
