"""Settings of preference training compared on the val set of Multi30k, English to German, to choose the recipe's.

    python eval/bench/multi30k_val.py WORK_DIR [NAME ...]

Each setting is the recipe recipes/multi30k-en-de.toml with the changes that SETTINGS lists. Each finished setting
adds a row to eval/results/multi30k-en-de/val.jsonl; settings that have a row there are skipped. Candidates are
computed once, in WORK_DIR, and survive an interrupt. Needs the model that the recipe names, and Multi30k in
MTCPO_TEST_DATA.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from real_data import data_folder

from mtcpo.core.progress import quiet_libraries
from mtcpo.core.version import __version__
from mtcpo.data.corpora import read_corpus
from mtcpo.data.file_formats.registry import read_row_file
from mtcpo.data.records import Segment, triplet_from_json
from mtcpo.data.rows import read_segments
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.evaluate import evaluate_outputs
from mtcpo.evaluation.systems import load_metrics_for
from mtcpo.evaluation.testsets.suites import load_test_sets
from mtcpo.evaluation.testsets.testset import TestSet, TestSetConfig
from mtcpo.pipeline.recipe import Recipe, load_recipe
from mtcpo.preferences.build import build_preferences
from mtcpo.translation.translate import translate_texts, translate_to_file

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/multi30k-en-de.toml"
RESULTS = ROOT / "eval/results/multi30k-en-de/val.jsonl"

PACKAGES = ("torch", "transformers", "sacrebleu")

NO_LIMIT = "prefs.max_source_length_ratio=1000"
"""The recipe's length limit is a result of these experiments; it is off unless a setting names it."""


@dataclass(frozen=True)
class Setting:
    """One row: the number of sources, and overrides of the recipe."""

    take: int
    overrides: list[str] = field(default_factory=list)


def _train(rate: str, alpha: float, smoothing: float = 0.1, *more: str) -> list[str]:
    return [
        f"train.args.learning_rate={rate}", f"train.cpo_alpha={alpha}", f"train.nll_smoothing={smoothing}", *more,
    ]  # fmt: skip


SETTINGS: dict[str, Setting] = {
    "plain NLL": Setting(3_072, _train("1e-4", 1, 0.0)),
    "plain NLL, lr 3e-4": Setting(3_072, _train("3e-4", 1, 0.0)),
    "no NLL": Setting(3_072, _train("1e-4", 0, 0.0)),
    "lr 1e-4": Setting(3_072, _train("1e-4", 1)),
    "lengths balanced": Setting(3_072, _train("1e-4", 1, 0.1, "prefs.balance_length=true")),
    "3k, alpha 1": Setting(3_072, _train("5e-5", 1)),
    "3k, alpha 2": Setting(3_072, _train("5e-5", 2)),
    "11k, alpha 0.5": Setting(11_264, _train("5e-5", 0.5)),
    "11k, alpha 1": Setting(11_264, _train("5e-5", 1)),
    "11k, alpha 2": Setting(11_264, _train("5e-5", 2)),
    "29k, alpha 1": Setting(29_000, _train("5e-5", 1)),
    "29k, alpha 2": Setting(29_000, _train("5e-5", 2)),
    "29k, alpha 1, no loops": Setting(29_000, _train("5e-5", 1, 0.1, "prefs.max_source_length_ratio=2.0")),
    "29k, alpha 2, no loops": Setting(29_000, _train("5e-5", 2, 0.1, "prefs.max_source_length_ratio=2.0")),
}


def main(work: Path, names: list[str]) -> None:
    """Run the named settings (default: all) that have no row yet."""
    quiet_libraries()
    work.mkdir(parents=True, exist_ok=True)
    done = {row["name"] for _, row in read_row_file(RESULTS)} if RESULTS.exists() else set()
    for name in names or SETTINGS:
        if name in done:
            continue
        row = run_one(name, SETTINGS[name], work)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(json.dumps(row, ensure_ascii=False), flush=True)


def run_one(name: str, setting: Setting, work: Path) -> dict[str, Any]:
    """Build the pairs of one setting, train on them, and compare with the SFT baseline on val."""
    from mtcpo.training.examples import pair_texts
    from mtcpo.training.train import train

    recipe = load_recipe(RECIPE, [NO_LIMIT, *setting.overrides])
    prefs, model = work / f"{name}.jsonl", work / f"{name}"
    report = build_preferences(some_candidates(recipe, setting.take, work), recipe.prefs, prefs)
    if not model.exists():
        texts = pair_texts(triplet_from_json(row, where) for where, row in read_row_file(prefs))
        train(str(recipe.model.name), texts, recipe.train, model)
    trained = json.loads((model / "training.json").read_text(encoding="utf-8"))
    val = val_set()
    outputs = {
        "start": translations("start", str(recipe.model.name), recipe, val, work),
        "tuned": translations(name, str(model), recipe, val, work),
    }
    entry = evaluate_outputs(val, outputs, load_metrics_for([val], recipe.evaluate)[0], EvaluateConfig()).entry
    scores = entry.model_dump(by_alias=True, exclude_unset=True, include={"systems", "metrics"})
    return {
        "name": name, "sources": setting.take, "overrides": setting.overrides,
        "pairs": report.kept, "steps": trained["steps"], "train_seconds": trained["seconds"],
        "systems": scores["systems"], "metrics": scores["metrics"],
        "versions": {"mtcpo": __version__} | {name: metadata.version(name) for name in PACKAGES},
    }  # fmt: skip


def some_candidates(recipe: Recipe, take: int, work: Path) -> Iterator[Segment]:
    """Yield the candidates of the first `take` sources; compute those of all sources if they are missing."""
    from mtcpo.translation.engines.registry import open_engine

    path = work / "candidates.jsonl"
    if not path.exists():
        assert recipe.translate is not None
        with open_engine(str(recipe.model.name), "start", sources=recipe.data.take) as engine:
            translate_to_file(engine, read_corpus(recipe.data), recipe.translate, path)
    return itertools.islice(read_segments(path), take)


def val_set() -> TestSet:
    """Return the val set of Multi30k."""
    data = data_folder("multi30k")
    config = TestSetConfig(
        name="val", source=str(data / "val.en"), references=(str(data / "val.de"),), src_lang="en", tgt_lang="de"
    )
    return load_test_sets((), (config,), None)[0]


def translations(name: str, model: str, recipe: Recipe, val: TestSet, work: Path) -> list[str]:
    """Return a model's translations of val, from WORK_DIR if they exist there."""
    from mtcpo.translation.engines.registry import open_engine

    path = work / f"val {name}.json"
    if not path.exists():
        with open_engine(model, name) as engine:
            path.write_text(json.dumps(translate_texts(engine, val.segments, recipe.evaluate.decoding)))
    found: list[str] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path, help="Folder for candidates, models and translations.")
    parser.add_argument("name", nargs="*", choices=[*SETTINGS, []], help="A setting; default: all.")
    arguments = parser.parse_args()
    main(arguments.work_dir, arguments.name)
