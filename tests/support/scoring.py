"""Segments for tests of the scoring of lexical metrics."""

from mtcpo.data.records import Candidate, Segment
from mtcpo.metrics.scorer import Scorer

WORDS = "the cat sat on a mat while one dog ran".split()  # noqa: SIM905


def segments_to_score(count, tgt_lang="en"):
    """Yield segments with one reference and three candidates each."""
    for n in range(count):
        texts = [" ".join(WORDS[(n + k) % 5 : (n + k) % 5 + 3 + k]) for k in range(3)]
        candidates = tuple(Candidate(f"s{k}", text) for k, text in enumerate(texts))
        yield Segment(str(n), "de", tgt_lang, f"Satz {n}", (" ".join(WORDS[n % 4 : n % 4 + 6]),), candidates=candidates)


def score(segments, metrics, workers=None):
    return Scorer(metrics, workers).score(segments)
