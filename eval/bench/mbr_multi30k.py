"""Beam search against MBR with chrF on the three test sets of Multi30k, English to German: scores, significance, time.

    OMP_NUM_THREADS=2 python eval/bench/mbr_multi30k.py --model MODEL --output eval/results/bench/mbr-multi30k.json

MODEL, the SFT baseline of recipes/multi30k-en-de.toml, translates by beam search with 4 beams, and by minimum Bayes
risk with chrF over 16 epsilon samples (epsilon 0.02). The test sets are those of Multi30k in MTCPO_TEST_DATA. --epsilon
and --temperature add systems. Times are those of translating, choosing included, with the model loaded. chrF chose the
outputs of MBR, so that a gain on chrF alone proves little; BLEU and TER are related to it, but did not choose. Only
figures are written. The engine is that of `auto`: CTranslate2 if it is installed, and proven for the model.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from comet_speed import processor
from real_data import data_folder

from mtcpo.core.progress import quiet_libraries
from mtcpo.core.provenance import provenance
from mtcpo.data.records import Segment
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.evaluate import evaluate_outputs
from mtcpo.evaluation.systems import load_metrics_for
from mtcpo.evaluation.testsets.suites import load_test_sets
from mtcpo.evaluation.testsets.testset import TestSet, TestSetConfig
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.base import Engine, Job
from mtcpo.translation.translate import translate_texts

SETS = ("test_2016_flickr", "test_2017_mscoco", "test_2017_flickr")
METRICS = ("bleu", "chrf", "ter")
LIMIT = 100
"""Tokens of a translation, as in the recipe."""
FIELDS = {"suite", "sha256", "segments", "references", "baseline", "significance", "metrics", "systems"}
"""Fields of evaluation.json that are written: no name of a file."""


def read_sets() -> list[TestSet]:
    """Return the test sets."""
    sets = []
    for name in SETS:
        path = data_folder("multi30k") / name
        files = {"source": f"{path}.en", "references": (f"{path}.de",)}
        sets.append(TestSetConfig(name=name, src_lang="en", tgt_lang="de", **files))
    return load_test_sets((), sets)


def searches(arguments: argparse.Namespace) -> dict[str, TranslateConfig]:
    """Return the decoding settings of each system, the baseline first."""
    systems: dict[str, dict[str, Any]] = {"beam 4": {"num_beams": 4}, "MBR": {}}
    systems |= {f"MBR, epsilon {epsilon:g}": {"epsilon": epsilon} for epsilon in arguments.epsilon}
    systems |= {f"MBR, temperature {value:g}": {"temperature": value} for value in arguments.temperature}
    configs = {}
    for name, settings in systems.items():
        mbr = {"mbr": "chrf", "num_candidates": 16} if name.startswith("MBR") else {}
        configs[name] = TranslateConfig(max_new_tokens=LIMIT, **mbr, **settings)
    return configs


def translate(engine: Engine, segments: tuple[Segment, ...], search: TranslateConfig) -> tuple[list[str], Any]:
    """Return the translations, and the seconds of processor and wall-clock time."""
    before, started = time.process_time(), time.perf_counter()
    texts = translate_texts(engine, segments, search)
    seconds = {"cpu": time.process_time() - before, "wall": time.perf_counter() - started}
    return texts, {kind: round(value, 1) for kind, value in seconds.items()}


def main() -> None:
    """Translate, score, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Directory of the model.")
    parser.add_argument("--epsilon", type=float, nargs="*", default=[], help="More systems with these.")
    parser.add_argument("--temperature", type=float, nargs="*", default=[], help="More systems with these.")
    parser.add_argument("--take", type=int, help="Only so many sources of each test set.")
    parser.add_argument("--output", type=Path, help="JSON file to write.")
    arguments = parser.parse_args()
    quiet_libraries()
    from mtcpo.translation.engines.registry import load_engine

    config = EvaluateConfig(metrics=METRICS)
    test_sets = [replace(each, segments=each.segments[: arguments.take]) for each in read_sets()]
    segments = list(chain.from_iterable(test_set.segments for test_set in test_sets))
    job = Job(list(searches(arguments).values()), segments, len(segments))
    engine = load_engine(arguments.model, "model", job=job)
    made = provenance(gpus=False)
    made["machine"] |= {"processor": processor(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    outcome: dict[str, Any] = {"engine": engine.label, "proof": engine.proof, "decoding": {}, "sets": {}}
    for name, search in searches(arguments).items():
        outcome["decoding"][name] = search.model_dump(mode="json", exclude_unset=True)
    for test_set, metrics in zip(test_sets, load_metrics_for(test_sets, config), strict=True):
        outputs, seconds = {}, {}
        for name, search in searches(arguments).items():
            outputs[name], seconds[name] = translate(engine, test_set.segments, search)
        entry = evaluate_outputs(test_set, outputs, metrics, config).entry
        figures = entry.model_dump(mode="json", by_alias=True, exclude_unset=True, include=FIELDS)
        outcome["sets"][test_set.name] = figures | {"seconds": seconds}
        for name, scores in entry.systems.items():
            shown = {metric: round(score.score, 2) for metric, score in scores.metrics.items()}
            print(test_set.name, name, shown, seconds[name], flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(outcome | {"made": made}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
