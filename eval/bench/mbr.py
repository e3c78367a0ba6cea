"""Decoding by minimum Bayes risk: mtcpo's choice among candidates beside that of mbrs, for chrF and for COMET.

    OMP_NUM_THREADS=1 python eval/bench/mbr.py --mbrs-python PYTHON --model MODEL --output eval/results/bench/mbr.json

PYTHON: interpreter of an environment with `pip install mbrs==0.1.8`. Candidates: 16 epsilon samples of MODEL, an
English-German translation model, for the sources of Multi30k's test set of 2016 (in MTCPO_TEST_DATA); all 1,000 for
chrF, 200 for COMET. The samples stay in a temporary folder, or in --work, where another call finds them.

Metrics: chrF, for mbrs both its default, which is sacreBLEU's in one worker process, and its chrF in Rust; COMET, an
estimator with random weights and an encoder of 4 layers x 256. Both sides have their models loaded and take turns.
Ratios compare the processor seconds of neighboring runs. A source is free of ties if its best expected utility is
above that of every other text by more than float32's rounding; there both sides must choose the same text.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from comet_speed import make_encoder, make_model, processor, ratios
from real_data import data_folder

from mtcpo.core.provenance import provenance
from mtcpo.data.records import Candidate, Segment
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.mbr import open_mbr

SAMPLES = 16
SOURCES = {"chrf": 1000, "fastchrf": 1000, "comet": 200}
GOALS = {"chrf": 3.0, "fastchrf": None, "comet": 5.0}
ROUNDING = {"chrf": 1e-3, "fastchrf": 1e-3, "comet": 1e-4}
"""Differences of expected utilities that may be rounding: mbrs has them in float32."""
LAYERS, HIDDEN = 4, 256


def sample(model: str, count: int, work: Path) -> list[Segment]:
    """Return sources with their samples, drawn in `work` unless they are there."""
    from mtcpo.translation.decoding import Decoder
    from mtcpo.translation.engines.base import Job
    from mtcpo.translation.engines.registry import load_engine

    path = work / "samples.json"
    if not path.exists():
        lines = (data_folder("multi30k") / "test_2016_flickr.en").read_text(encoding="utf-8").splitlines()[:count]
        segments = [Segment(str(number), "en", "de", line) for number, line in enumerate(lines)]
        search = TranslateConfig(sampling="epsilon", num_candidates=SAMPLES, max_new_tokens=64, redraw=0)
        engine = load_engine(model, "model", job=Job([search], segments, len(segments)))
        sampled = Decoder(engine, search).decode(segments)
        path.write_text(json.dumps([[s.source, [c.text for c in s.candidates]] for s in sampled]), encoding="utf-8")
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [
        Segment(str(number), "en", "de", source, candidates=tuple(Candidate("model", text) for text in texts))
        for number, (source, texts) in enumerate(rows[:count])
    ]


def write_comet(work: Path, segments: list[Segment]) -> Path:
    """Write a COMET model with random weights; return its folder."""
    import torch

    lines = [text for segment in segments for text in (segment.source, *(c.text for c in segment.candidates))]
    model = make_model("regression", make_encoder(work / "encoder", lines, LAYERS, HIDDEN), HIDDEN)
    folder = work / "comet"
    (folder / "checkpoints").mkdir(parents=True)
    parameters = {name: value for name, value in model.hparams.items() if isinstance(value, (str, int, float, list))}
    content = {"state_dict": model.state_dict(), "hyper_parameters": parameters, "pytorch-lightning_version": "2.0.0"}
    torch.save(content | {"epoch": 0, "global_step": 0}, folder / "checkpoints" / "model.ckpt")
    identity = "class_identifier: regression_metric\nencoder_model: XLM-RoBERTa\n"
    (folder / "hparams.yaml").write_text(identity, encoding="utf-8")
    return folder


class Peer:
    """mbrs in another process, its metric loaded. `run`: decodes all sources once."""

    def __init__(self, python: str, rows: Path, metric: str) -> None:
        program = [python, str(Path(__file__).with_name("mbr_peer.py")), str(rows), metric]
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=variables
        )

    def run(self) -> dict[str, Any]:
        """Return the winners' indices, and the seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"mbrs ended; run {' '.join(map(str, self._process.args))} to see why")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def run_ours(config: TranslateConfig, segments: list[Segment]) -> dict[str, Any]:
    """Return the winners' texts, and the seconds."""
    chooser = open_mbr(config, ["de"])
    assert chooser is not None
    before, started = time.process_time(), time.perf_counter()
    winners = chooser.choose(
        [replace(each, candidates=()) for each in segments], [each.candidates for each in segments]
    )
    seconds = {"cpu": time.process_time() - before, "wall": time.perf_counter() - started}
    return {"winners": [winner.text for winner in winners], **seconds}


def compare(name: str, arguments: argparse.Namespace, segments: list[Segment], work: Path) -> dict[str, Any]:
    """Time both sides and compare their choices."""
    folder = write_comet(work, segments) if name == "comet" else None
    config = TranslateConfig(mbr=f"comet:{folder}" if folder else "chrf", num_candidates=SAMPLES)
    rows = work / f"{name}.json"
    rows.write_text(json.dumps([[s.source, [c.text for c in s.candidates]] for s in segments]), encoding="utf-8")
    peer = Peer(arguments.mbrs_python, rows, str(folder / "checkpoints" / "model.ckpt") if folder else name)
    run_ours(config, segments[:20])
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        theirs.append(peer.run())
        ours.append(run_ours(config, segments))
    peer.close()
    texts = [segments[row].candidates[index].text for row, index in enumerate(theirs[-1]["winners"])]
    return {
        "sources": len(segments),
        "distinct_candidates": sum(len({c.text for c in segment.candidates}) for segment in segments) / len(segments),
        "seconds": {"mbrs": medians(theirs), "mtcpo": medians(ours)},
        "ratio": ratios(theirs, ours),
        "goal": GOALS[name],
        **agreement(config, segments, ours[-1]["winners"], texts, ROUNDING[name]),
    }


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median seconds."""
    return {kind: round(statistics.median(run[kind] for run in runs), 3) for kind in ("cpu", "wall")}


def agreement(
    config: TranslateConfig, segments: list[Segment], ours: list[str], theirs: list[str], rounding: float
) -> dict[str, int]:
    """Count the sources without ties, and those where both sides chose the same text."""
    chooser = open_mbr(config, ["de"])
    assert chooser is not None
    free, same_free = 0, 0
    for row, utilities in enumerate(chooser.metrics["de"].score_candidates(segments)):
        texts = [candidate.text for candidate in segments[row].candidates]
        best, *others = sorted(dict(zip(texts, utilities, strict=True)).values(), reverse=True)
        if not others or best - others[0] > rounding:
            free += 1
            same_free += ours[row] == theirs[row]
    same = sum(map(str.__eq__, ours, theirs))
    return {"same_choice": same, "without_ties": free, "same_choice_without_ties": same_free}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbrs-python", required=True, help="Python interpreter of an environment with mbrs.")
    parser.add_argument("--model", required=True, help="English-German translation model.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each side; default: %(default)s.")
    parser.add_argument("--sources", type=int, default=1000, help="At most so many sources; default: %(default)s.")
    parser.add_argument("--metrics", nargs="+", choices=SOURCES, default=list(SOURCES), help="Default: all.")
    parser.add_argument("--work", type=Path, help="Folder that keeps the samples; default: a temporary one.")
    parser.add_argument("--output", type=Path, help="JSON file to write.")
    arguments = parser.parse_args()
    made = provenance(gpus=False)
    made["machine"] |= {"processor": processor(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    show = "from importlib.metadata import version; print(version('mbrs'))"
    made["versions"]["mbrs"] = subprocess.check_output([arguments.mbrs_python, "-c", show], text=True).strip()
    outcome: dict[str, Any] = {"settings": {"samples": SAMPLES, "layers": LAYERS, "hidden": HIDDEN}}
    with tempfile.TemporaryDirectory() as temporary:
        samples = arguments.work or Path(temporary)
        samples.mkdir(parents=True, exist_ok=True)
        segments = sample(arguments.model, arguments.sources, samples)
        for name in arguments.metrics:
            outcome[name] = compare(name, arguments, segments[: SOURCES[name]], Path(temporary))
            print(name, json.dumps(outcome[name]), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(outcome | {"made": made}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
