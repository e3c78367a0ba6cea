"""Made-up segments whose candidates are scored already, and the report that is made of their pairs."""

from collections.abc import Iterator
from pathlib import Path

from mtcpo.data.records import Candidate, Segment

REPORT_FILE = Path(__file__).parent / "prefs-report.json"
"""What build-prefs wrote of `scored_segments()` before the report became a typed record; it must not change."""

REPORT_SETTINGS = {
    "metrics": ("clarity", "errors"),
    "combine": "zscore",
    "weights": {"clarity": 2.0},
    "lower_is_better": ("errors",),
    "select": "best-vs-rest",
    "max_length_difference": 0.8,
    "balance_length": True,
    "max_per_language": 24,
    "seed": 5,
}
"""The settings of that report."""

NOUNS = ("gardener", "baker", "pilot", "teacher", "neighbour")
VERBS = ("sees", "hears", "greets", "follows")


def scored_segments(count: int = 40) -> Iterator[Segment]:
    """Yield segments in two language pairs; one source is empty, and one has no candidate."""
    for number in range(count):
        noun, verb = NOUNS[number % len(NOUNS)], VERBS[number % len(VERBS)]
        words = ["the", noun, verb, "the", NOUNS[(number + 2) % len(NOUNS)], "in", "house", str(number)]
        candidates = []
        for system in range(4 if number != 7 else 0):
            text = " ".join(words[: len(words) - system] if number % 3 else [*words, *["very"] * system])
            scores = {"clarity": float((number * 7 + system * 11) % 23), "errors": float((number + system * 5) % 9)}
            candidates.append(Candidate(f"system-{system}", text, scores))
        source = f"Satz {number}" if number != 11 else " "
        language = "en" if number % 4 else "sv"
        yield Segment(f"house:{number}", "de", language, source, candidates=tuple(candidates))
