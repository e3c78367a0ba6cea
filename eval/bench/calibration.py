"""How often do the significance tests report a difference between equal systems, and do the intervals cover the truth?

    python eval/bench/calibration.py --output eval/results/significance/calibration.json

Synthetic data: a pair of systems is two columns of segment scores from the same distribution (a gamma distribution
common to both, for easy and hard segments, plus normal noise for each); the corpus score is their mean. The true
difference is zero, so every p-value below 0.05 is a false positive; a calibrated test has one in twenty.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from mtcpo.core.provenance import provenance
from mtcpo.evaluation.document import ALPHA
from mtcpo.evaluation.significance import (
    Array,
    bootstrap_p_value,
    bootstrap_scores,
    interval_95,
    randomization_p_value,
    randomized_differences,
)

SEGMENTS = (5, 50, 500, 2000)
PAIRS, RESAMPLES = 1000, 1000


def mean_score(sums: Array) -> Array:
    """Return the corpus score of summed statistics (..., 2): the sum of scores over the number of segments."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def outcome(segments: int, seed: int) -> tuple[float, float, bool]:
    """Return both p-values for a pair of equal systems, and whether the interval of the difference contains 0."""
    rng = np.random.default_rng(seed)
    common = rng.gamma(4.0, 10.0, segments)
    ones = np.ones(segments)
    first, second = (np.stack([common + rng.normal(0.0, 10.0, segments), ones], axis=1) for _ in range(2))
    observed = float(mean_score(second.sum(axis=0)) - mean_score(first.sum(axis=0)))
    a, b = bootstrap_scores([first, second], [mean_score] * 2, RESAMPLES, seed)
    (swapped,) = randomized_differences([(first, second)], [mean_score], RESAMPLES, seed)
    low, high = interval_95(b - a)
    return bootstrap_p_value(b - a, observed), randomization_p_value(swapped, observed), low <= 0.0 <= high


def measure(segments: int) -> dict[str, Any]:
    """Return the share of false positives, and of intervals that contain the true difference, over many pairs."""
    found = [outcome(segments, seed) for seed in range(PAIRS)]
    bootstrap, randomization, covered = (np.array(column) for column in zip(*found, strict=True))
    return {
        "segments": segments,
        "bootstrap_below_0.05": float(np.mean(bootstrap < ALPHA)),
        "randomisation_below_0.05": float(np.mean(randomization < ALPHA)),
        "larger_of_both_below_0.05": float(np.mean(np.maximum(bootstrap, randomization) < ALPHA)),
        "interval_holds_the_truth": float(np.mean(covered)),
    }


def main() -> None:
    """Measure every number of segments and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write.")
    output = parser.parse_args().output
    rows = []
    for segments in SEGMENTS:
        rows.append(measure(segments))
        print(rows[-1], flush=True)
    found = {"pairs_of_equal_systems": PAIRS, "resamples": RESAMPLES, "rows": rows, "made_by": provenance(gpus=False)}
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
