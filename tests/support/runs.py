"""A run directory for the report's tests: made-up sentences, real metrics, plausible logs."""

import json
import random
from dataclasses import replace
from pathlib import Path

from mtcpo.core.files import write_json
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Segment, Triplet, triplet_to_json
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.evaluate import evaluate_outputs
from mtcpo.evaluation.results import Evaluation, write_evaluation
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.registry import load_metric

NOUNS = {"dog": "Hund", "baker": "Bäcker", "teacher": "Lehrer", "gardener": "Gärtner", "pilot": "Pilot"}
VERBS = {"sees": "sieht", "hears": "hört", "follows": "verfolgt", "greets": "grüßt"}
PLACES = {"in the garden": "im Garten", "behind the house": "hinter dem Haus", "at the station": "am Bahnhof"}
TIMES = {"today": "heute", "every morning": "jeden Morgen", "in the evening": "am Abend"}


def german_test_set(count: int, seed: int = 1, name: str = "garden") -> TestSet:
    rng = random.Random(seed)
    segments = []
    for number in range(1, count + 1):
        (who, wer), (whom, wen) = rng.sample(sorted(NOUNS.items()), 2)
        (sees, sieht), (place, ort) = rng.choice(sorted(VERBS.items())), rng.choice(sorted(PLACES.items()))
        when, wann = rng.choice(sorted(TIMES.items()))
        source = f"The {who} {sees} the {whom} {place} {when}."
        reference = f"Der {wer} {sieht} den {wen} {wann} {ort}."
        segments.append(Segment(f"{name}:en-de:{number}", "en", "de", source, (reference,), doc=f"story {number % 7}"))
    return TestSet(name, "en", "de", tuple(segments), "made up", (f"{name}.de",))


def spoilt(text: str, rng: random.Random, share: float) -> str:
    """Give some words a wrong neighbour, drop some: what a weak system does."""
    words = text.rstrip(".").split()
    kept = [rng.choice(words) if rng.random() < share else word for word in words if rng.random() > share / 3]
    return " ".join(kept) + "."


def german_outputs(test_set: TestSet, shares: dict[str, float], seed: int = 3) -> dict[str, list[str]]:
    rng = random.Random(seed)
    return {
        system: [spoilt(segment.references[0], rng, share) for segment in test_set.segments]
        for system, share in shares.items()
    }


def evaluate(test_set: TestSet, outputs: dict[str, list[str]], selection_metrics=("chrf",), **settings) -> Evaluation:
    metrics = [load_metric(name, test_set.tgt_lang) for name in ("bleu", "chrf", "ter")]
    return evaluate_outputs(test_set, outputs, metrics, EvaluateConfig(resamples=300, **settings), selection_metrics)


def scripts_test_set() -> tuple[TestSet, dict[str, list[str]]]:
    """Right-to-left and East Asian text, an empty translation, and text that looks like markup."""
    rows = [
        ("The book is on the table.", "الكتاب على الطاولة.", "الكتاب فوق الطاولة.", "الكتاب على الطاولة."),
        ("I drink tea.", "私はお茶を飲みます。", "私は茶を飲んだ。", "私はお茶を飲みます。"),
        ("Is 3 < 4 & 5 > 4?", "Ist 3 < 4 & 5 > 4?", "<script>alert('no')</script>", "Ist 3 < 4 & 5 > 4?"),
        ("<b>bold</b>", "<b>fett</b>", "", '"><img src=x onerror=alert(1)>'),
    ]
    segments = tuple(
        Segment(f"scripts:en-ar:{n}", "en", "ar", source, (reference,))
        for n, (source, reference, *_) in enumerate(rows, 1)
    )
    outputs = {"start": [row[2] for row in rows], "<script>alert('tuned')<": [row[3] for row in rows]}
    return TestSet("scripts", "en", "ar", segments, "made up", ("A",)), outputs


def training_log() -> list[dict[str, object]]:
    rng = random.Random(5)
    rows: list[dict[str, object]] = []
    for step in range(10, 601, 10):
        loss = 1.1 + 6.5 * 2.7 ** (-step / 120)
        rows.append({"stage": "sft", "step": step, "epoch": step / 300, "loss": loss + rng.gauss(0, 0.06)})
    for step in range(5, 201, 5):
        gap = step / 200
        rows.append(
            {
                "stage": "cpo",
                "step": step,
                "epoch": step / 200,
                "loss": 1.6 - 0.35 * gap + rng.gauss(0, 0.03),
                "nll_loss": 0.92 - 0.05 * gap + rng.gauss(0, 0.01),
                "rewards/chosen": -1.3 + 0.2 * gap + rng.gauss(0, 0.04),
                "rewards/rejected": -1.5 - 0.5 * gap + rng.gauss(0, 0.05),
                "rewards/margins": 0.2 + 0.7 * gap + rng.gauss(0, 0.05),
                "rewards/accuracies": 0.58 + 0.2 * gap + rng.gauss(0, 0.02),
                "logps/chosen": -13 + 2 * gap + rng.gauss(0, 0.3),
                "logps/rejected": -15 - 5 * gap + rng.gauss(0, 0.4),
                "learning_rate": 1e-4 * (1 - gap),
            }
        )
    return rows


def pairs(count: int) -> list[Triplet]:
    rng = random.Random(9)
    test_set = german_test_set(count, seed=11)
    return [
        Triplet(
            segment.id,
            "en",
            "de",
            segment.source,
            chosen=segment.references[0],
            rejected=spoilt(segment.references[0], rng, 0.3),
            chosen_system=f"sample-{rng.randint(1, 4)}",
            rejected_system=f"sample-{rng.randint(1, 4)}",
            margin=abs(rng.gauss(18, 9)),
        )
        for segment in test_set.segments
    ]


PREFS_REPORT = {
    "segments": 2000,
    "candidates": 16000,
    "considered": 2000,
    "kept": 1400,
    "sources_kept": 1400,
    "dropped": {"length_difference": 260, "small_margin": 220, "tie": 120},
    "removed_candidates": {"same_text": 3100},
    "languages": {"en-de": 1400},
    "margin": {"mean": 18.0, "quantiles": {"0.0": 5.0, "0.5": 17.5, "1.0": 48.0}},
    "chosen_scores": {"chrf": 71.0},
    "rejected_scores": {"chrf": 53.0},
    "lengths": {
        "chosen_mean_chars": 48.3,
        "rejected_mean_chars": 47.9,
        "log_ratio_mean": 0.01,
        "log_ratio_quantiles": {"0.0": -0.7, "0.5": 0.0, "1.0": 0.7},
        "chosen_longer_share": 0.46,
        "rejected_longer_share": 0.41,
        "length_score_correlation": 0.08,
        "length_margin_correlation": None,
    },
    "agreement": {},
    "systems": {"chosen": {"sample-2": 500, "sample-1": 480, "sample-3": 420}, "rejected": {"sample-4": 1400}},
    "histograms": {
        "pairs": 1400,
        "margin": {"edges": [5.0, 15.0, 25.0, 48.0], "pairs": [600, 500, 300]},
        "length_ratio": {"edges": [0.5, 0.9, 1.1, 2.0], "pairs": [200, 1000, 200]},
        "scores": {"chrf": {"edges": [30.0, 60.0, 90.0], "chosen": [200, 1200], "rejected": [900, 500]}},
    },
    "examples": [],
    "metrics": {"chrf": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.5.1"},
    "select": "best-worst",
    "min_margin": 5.0,
    "notes": [],
    "mtcpo": "0.1.0",
}

STAMP = {
    "command": "mtcpo run garden.toml",
    "seed": 1,
    "started": "2024-05-01T10:00:00Z",
    "seconds": {"sft": 61.2, "translate": 24.0, "cpo": 55.9, "evaluate": 9.3},
    "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "4.57.6", "mtcpo": "0.1.0"},
    "inputs": {"train.en": "6f1c0a…", "train.de": "0b9e77…"},
}

RECIPE = """\
# A made-up recipe.
[train]
loss = "sigmoid"
beta = 0.1
args = { learning_rate = 1e-4 }
"""


def write_full_run(run_dir: Path, segments: int = 400) -> Path:
    """Write a run with every file that the report knows."""
    garden = german_test_set(segments)
    outputs = german_outputs(garden, {"start": 0.24, "tuned": 0.15})
    outputs["tuned"][0] = ""
    outputs["start"][1] = garden.segments[1].source
    other, other_outputs = scripts_test_set()
    write_evaluation(run_dir, [evaluate(garden, outputs), evaluate(other, other_outputs)])
    write_row_file(run_dir / "metrics.jsonl", training_log())
    write_row_file(run_dir / "prefs.jsonl", map(triplet_to_json, pairs(1400)))
    write_json(run_dir / "prefs-report.json", PREFS_REPORT)
    write_json(run_dir / "stamp.json", STAMP)
    (run_dir / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return run_dir


def write_many_systems(run_dir: Path) -> Path:
    """Write a run that compares nine systems and has nothing but their evaluation."""
    garden = replace(german_test_set(200), name="nine")
    shares = {f"System-{letter}": 0.08 + 0.03 * number for number, letter in enumerate("ABCDEFGHI")}
    write_evaluation(
        run_dir, [evaluate(garden, german_outputs(garden, shares), selection_metrics=(), baseline="System-D")]
    )
    return run_dir


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
