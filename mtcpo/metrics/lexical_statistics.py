"""Statistics of texts against references for BLEU, chrF and TER, and the scores that follow from them.

All candidates and references of a segment are counted at once. The score formulas work on whole arrays, because a
significance test scores thousands of resampled corpora.

Dimensions: C candidates and R references of a segment, K statistics, U distinct n-grams of one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mtcpo.metrics.base import Array
from mtcpo.metrics.ngrams import Integers, characters, ngram_counts, number_words, pairwise_matches
from mtcpo.metrics.sacrebleu_internals import closest_length, edits_and_lengths, split_words, strip_punctuation

CHRF_CHARS = 6
CHRF_BETA = 2  # recall counts twice as much as precision: Popovic 2016, and sacreBLEU's default
BLEU_ORDER = 4  # Papineni et al. 2002


def bleu_scores(sums: Array, effective_order: bool) -> Array:
    """BLEU from summed statistics (hypothesis length, reference length, 4 matches, 4 totals). Shape (..., 10) -> (...).

    100 * exp(min(0, 1 - ref/hyp)) * (p1 p2 p3 p4)^(1/4), where the k-th order without a match counts as
    1 / (2^k * total) ("exp" smoothing, as mteval-v13a). effective_order, for single sentences: only the orders up to
    the hypothesis's length count.
    """
    hyp_len, ref_len = sums[..., 0], sums[..., 1]
    # The maxima with 1 below avoid division by zero for empty texts; they change no other score.
    correct, total = sums[..., 2 : 2 + BLEU_ORDER], sums[..., 2 + BLEU_ORDER :]
    present = np.cumprod(total > 0, axis=-1, dtype=bool)
    missed = correct == 0
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), correct)
    logs = np.where(present, np.log(smoothed) - np.log(np.where(present, total, 1.0)), 0.0)
    orders = present.sum(axis=-1) if effective_order else BLEU_ORDER
    penalty = np.minimum(0.0, 1.0 - ref_len / np.maximum(hyp_len, 1.0))
    score = 100.0 * np.exp(penalty + logs.sum(axis=-1) / np.maximum(orders, 1))
    possible = correct.any(axis=-1) & (effective_order | present.all(axis=-1))
    return np.where(possible, score, 0.0)


def chrf_scores(sums: Array) -> Array:
    """ChrF from summed statistics (n-grams of hypothesis, reference, both). Shape (..., 3 * orders) -> (...).

    F-beta of precision and recall, each averaged over the orders that both sides have (Popovic 2015).
    """
    hypothesis, reference, matches = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    # A text shorter than n characters has no n-grams: such orders are left out, not counted as zero.
    shared = (hypothesis > 0) & (reference > 0)
    orders = np.maximum(shared.sum(axis=-1), 1)
    precision = np.where(shared, matches / np.maximum(hypothesis, 1), 0.0).sum(axis=-1) / orders
    recall = np.where(shared, matches / np.maximum(reference, 1), 0.0).sum(axis=-1) / orders
    weighted = CHRF_BETA**2 * precision + recall
    # sacreBLEU's order of operations, to the last bit: ties between references must be broken as in sacreBLEU.
    score: Array = 100.0 * ((1 + CHRF_BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1.0))
    return score


def ter_scores(sums: Array) -> Array:
    """TER from summed statistics (edits, mean reference length); lower is better. Shape (..., 2) -> (...)."""
    edits, length = sums[..., 0], sums[..., 1]
    return 100.0 * np.where(length > 0, edits / np.where(length > 0, length, 1.0), edits > 0)


def chrf_statistics(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Return n-grams of hypothesis, reference and both, by order, against the best reference. Shape (C, K)."""
    statistics = chrf_pairs(metric, texts, references)
    best = chrf_scores(statistics).argmax(axis=1)
    closest: Array = statistics[np.arange(len(texts)), best]
    return closest


def chrf_pairs(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Return n-grams of hypothesis, reference and both, by order, against each reference. Shape (C, R, K)."""
    counts = _chrf_counts(metric, texts, references)
    statistics = np.empty((len(texts), len(references), 3 * len(counts)))
    for order, (ours, theirs) in enumerate(counts):
        in_reference = theirs.sum(axis=-1)
        # An order longer than the reference is left out on both sides; otherwise short references would look worse.
        statistics[..., 3 * order] = np.where(in_reference > 0, ours.sum(axis=-1)[:, None], 0)
        statistics[..., 3 * order + 1] = in_reference
        statistics[..., 3 * order + 2] = pairwise_matches(ours, theirs)
    return statistics


def chrf_against_sum(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Return n-grams of hypothesis, references and both, against the mean of the references' counts. Shape (C, K).

    Everything is multiplied by R, which leaves precision and recall as they are: sums are integers, means are not.
    """
    columns: list[Array] = []
    for ours, theirs in _chrf_counts(metric, texts, references):
        scaled, summed = len(references) * ours, theirs.sum(axis=0)
        in_references = np.full(len(texts), summed.sum())
        in_texts = np.where(in_references > 0, scaled.sum(axis=-1), 0)
        columns += [in_texts, in_references, np.minimum(scaled, summed).sum(axis=-1)]
    return np.stack(columns, axis=-1).astype(np.float64)


def _chrf_counts(metric: Any, texts: Sequence[str], references: Sequence[str]) -> list[tuple[Integers, Integers]]:
    """Return, for each order, how often each n-gram occurs in each text and each reference. Shape (C, U), (R, U)."""
    # For MBR, the references are the texts: each is counted once.
    rows = {text: row for row, text in enumerate(dict.fromkeys((*texts, *references)))}
    counts = list(ngram_counts(characters(["".join(text.split()) for text in rows]), CHRF_CHARS))
    if metric.word_order:
        counts += ngram_counts(number_words([strip_punctuation(metric, text) for text in rows]), metric.word_order)
    ours, theirs = [rows[text] for text in texts], [rows[text] for text in references]
    return [(of_order[ours], of_order[theirs]) for of_order in counts]


def bleu_statistics(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Return lengths, matches and totals, against all references together. Shape (C, 2 + 2 * orders)."""
    tokens = list(map(partial(split_words, metric), (*texts, *references)))
    reference_lengths = list(map(len, tokens[len(texts) :]))
    statistics = np.empty((len(texts), 2 + 2 * BLEU_ORDER))
    for row, words in zip(statistics, tokens[: len(texts)], strict=True):
        row[:2] = len(words), closest_length(metric, len(words), reference_lengths)
    for order, counts in enumerate(ngram_counts(number_words(tokens), BLEU_ORDER)):
        # Clipped counts: an n-gram matches at most as often as in the reference with most of it (Papineni et al. 2002).
        ours, most = counts[: len(texts)], counts[len(texts) :].max(axis=0)
        statistics[:, 2 + order] = np.minimum(ours, most).sum(axis=-1)
        statistics[:, 2 + BLEU_ORDER + order] = ours.sum(axis=-1)
    return statistics


def bleu_pairs(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Return lengths, matches and totals, against each reference alone. Shape (C, R, 2 + 2 * orders)."""
    tokens = list(map(partial(split_words, metric), (*texts, *references)))
    lengths = np.array(list(map(len, tokens)))
    statistics = np.empty((len(texts), len(references), 2 + 2 * BLEU_ORDER))
    statistics[..., 0], statistics[..., 1] = lengths[: len(texts), None], lengths[len(texts) :]
    for order, counts in enumerate(ngram_counts(number_words(tokens), BLEU_ORDER)):
        ours = counts[: len(texts)]
        statistics[..., 2 + order] = pairwise_matches(ours, counts[len(texts) :])
        statistics[..., 2 + BLEU_ORDER + order] = ours.sum(axis=-1)[:, None]
    return statistics


def ter_statistics(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Return edits and mean reference length. Shape (C, 2)."""
    return np.array(edits_and_lengths(metric, texts, references), dtype=np.float64)


def ter_pairs(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Return edits and reference length, against each reference alone. Shape (C, R, 2)."""
    return np.stack([ter_statistics(metric, texts, [reference]) for reference in references], axis=1)
