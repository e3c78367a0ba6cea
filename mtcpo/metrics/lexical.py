"""The lexical metrics: BLEU, spBLEU, chrF, chrF++ and TER, equal to sacreBLEU's but faster.

sacreBLEU tokenizes and counts TER's edits. N-grams are counted here, for all candidates and references of a segment at
once. The score formulas work on whole arrays, because a significance test scores thousands of resampled corpora.
Tests compare both with sacreBLEU's results.

Dimensions: C candidates and R references of a segment, K statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from http.client import HTTPException
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from mtcpo.core.errors import UserError
from mtcpo.data.languages import macro_language
from mtcpo.data.records import Segment
from mtcpo.metrics.base import Array, Metric
from mtcpo.metrics.ngrams import characters, ngram_counts, number_words
from mtcpo.metrics.sacrebleu_internals import (
    clear_tokenizer_caches,
    closest_length,
    edits_and_lengths,
    signature_of,
    split_words,
    strip_punctuation,
)

CHRF_CHARS = 6
CHRF_BETA = 2  # recall counts twice as much as precision: Popovic 2016, and sacreBLEU's default
BLEU_ORDER = 4  # Papineni et al. 2002

SENTENCEPIECE = "flores200"  # what "spBLEU" means since NLLB

TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"} | dict.fromkeys(
    ("th", "lo", "km", "my", "bo", "dz", "shn"), SENTENCEPIECE
)
"""sacreBLEU's tokenizers for languages written without spaces between words; all others get mteval's 13a."""


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


def _chrf_statistics(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Return n-grams of hypothesis, reference and both, by order, against the best reference. Shape (C, K)."""
    together = [*texts, *references]
    counts = list(ngram_counts(characters(["".join(text.split()) for text in together]), CHRF_CHARS))
    if metric.word_order:
        counts += ngram_counts(number_words([strip_punctuation(metric, text) for text in together]), metric.word_order)
    statistics = np.empty((len(texts), len(references), 3 * len(counts)))
    for order, counts_of_order in enumerate(counts):
        ours, theirs = counts_of_order[: len(texts), None], counts_of_order[None, len(texts) :]
        in_reference = theirs.sum(axis=-1)
        # An order longer than the reference is left out on both sides; otherwise short references would look worse.
        statistics[..., 3 * order] = np.where(in_reference > 0, ours.sum(axis=-1), 0)
        statistics[..., 3 * order + 1] = in_reference
        statistics[..., 3 * order + 2] = np.minimum(ours, theirs).sum(axis=-1)
    best = chrf_scores(statistics).argmax(axis=1)
    closest: Array = statistics[np.arange(len(texts)), best]
    return closest


def _bleu_statistics(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Return lengths, matches and totals, against all references together. Shape (C, 2 + 2 * orders)."""
    tokens = [split_words(metric, text) for text in (*texts, *references)]
    reference_lengths = [len(words) for words in tokens[len(texts) :]]
    statistics = np.empty((len(texts), 2 + 2 * BLEU_ORDER))
    for row, words in zip(statistics, tokens[: len(texts)], strict=True):
        row[:2] = len(words), closest_length(metric, len(words), reference_lengths)
    for order, counts in enumerate(ngram_counts(number_words(tokens), BLEU_ORDER)):
        # Clipped counts: an n-gram matches at most as often as in the reference with most of it (Papineni et al. 2002).
        ours, most = counts[: len(texts)], counts[len(texts) :].max(axis=0)
        statistics[:, 2 + order] = np.minimum(ours, most).sum(axis=-1)
        statistics[:, 2 + BLEU_ORDER + order] = ours.sum(axis=-1)
    return statistics


def _ter_statistics(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Return edits and mean reference length. Shape (C, 2)."""
    return np.array(edits_and_lengths(metric, texts, references), dtype=np.float64)


Maker = Callable[[str], "LexicalMetric"]
"""From a BCP-47 target language to a metric; what METRICS loads."""


@dataclass(frozen=True, slots=True)
class LexicalMetric(Metric):
    """A metric computed from counts of n-grams or edits.

    make: the function that creates it, for worker processes. corpus, sentence: sacreBLEU's metric, set up for each;
    they differ only in BLEU's effective order.
    count: returns the statistics of texts against references, at least one of each.
    """

    name: str
    make: Maker
    tgt_lang: str
    corpus: BLEU | CHRF | TER
    sentence: BLEU | CHRF | TER
    count: Callable[[Any, Sequence[str], Sequence[str]], Array]
    corpus_formula: Callable[[Array], Array]
    sentence_formula: Callable[[Array], Array]
    higher_is_better: bool = True
    needs_references: bool = True
    percent: bool = True
    is_lexical: bool = True

    def __reduce__(self) -> tuple[Any, ...]:
        # sacreBLEU's objects and the functions cannot be pickled for a worker process, which creates them again.
        return _metric_in_this_process, (self.make, self.tgt_lang)

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return sacreBLEU's own signature; num_references -1 is written "var"."""
        return signature_of(self.sentence if sentence else self.corpus, num_references)

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the sentence score of each candidate of each segment, TER negated."""
        # Systems often agree: of nine systems at WMT22, a quarter of the outputs equal another system's.
        distinct = [list(dict.fromkeys(c.text for c in segment.candidates)) for segment in segments]
        counts = [self._counts(texts, segment) for texts, segment in zip(distinct, segments, strict=True) if texts]
        if not counts:
            return [[] for _ in segments]
        clear_tokenizer_caches(self.sentence)
        in_order = iter(self.segment_scores(np.concatenate(counts)).tolist())
        scores: list[list[float]] = []
        for texts, segment in zip(distinct, segments, strict=True):
            score_of = {text: next(in_order) for text in texts}
            scores.append([score_of[c.text] for c in segment.candidates])
        return scores

    def statistics(self, hypotheses: Sequence[str], segments: Sequence[Segment]) -> Array:
        """Return sacreBLEU's statistics of each hypothesis. Shape (N, K)."""
        pairs = zip(hypotheses, segments, strict=True)
        return np.concatenate([self._counts([text], segment) for text, segment in pairs])

    def corpus_score(self, sums: Array) -> Array:
        """Return the corpus scores of summed statistics. Shape (..., K) -> (...)."""
        return self.corpus_formula(np.asarray(sums, dtype=np.float64))

    def segment_scores(self, statistics: Array) -> Array:
        """Return the score of each segment alone, higher is better. Shape (N, K) -> (N,)."""
        scores = self.sentence_formula(statistics)
        return scores if self.higher_is_better else 0.0 - scores  # 0.0 - scores: -scores would print "-0.0"

    def _counts(self, texts: Sequence[str], segment: Segment) -> Array:
        """Return the statistics of texts, at least one. Shape (C, K)."""
        if not segment.references:
            raise UserError(
                f"segment {segment.id}: no reference, and {self.name} needs one; give it, or choose --metric cometkiwi"
            )
        return self.count(self.sentence, texts, segment.references)


# --- the metrics ------------------------------------------------------------------------------------------------------


def bleu(tgt_lang: str) -> LexicalMetric:
    """Return BLEU; its tokenizer depends on the target language, see `TOKENIZERS`.

    Raises:
        UserError: The tokenizer is not installed, or its model is not on disk and cannot be downloaded.
    """
    return _bleu("bleu", bleu, bleu_tokenizer(tgt_lang), tgt_lang)


def spbleu(tgt_lang: str) -> LexicalMetric:
    """Return BLEU over SentencePiece pieces.

    Raises:
        UserError: The SentencePiece model is neither on disk nor can it be downloaded.
    """
    return _bleu("spbleu", spbleu, SENTENCEPIECE, tgt_lang)


def chrf(tgt_lang: str) -> LexicalMetric:
    """Return chrF, of characters alone."""
    return _chrf("chrf", chrf, 0, tgt_lang)


def chrf_plus_plus(tgt_lang: str) -> LexicalMetric:
    """Return chrF++, which also counts words and pairs of words."""
    return _chrf("chrf++", chrf_plus_plus, 2, tgt_lang)


def ter(tgt_lang: str) -> LexicalMetric:
    """Return TER."""
    parts = TER(), TER(), _ter_statistics, ter_scores, ter_scores
    return LexicalMetric("ter", ter, tgt_lang, *parts, higher_is_better=False)


# Cached: a worker unpickles the metric with every task, and spBLEU would load a SentencePiece model each time.
@lru_cache(maxsize=64)
def _metric_in_this_process(make: Maker, tgt_lang: str) -> LexicalMetric:
    return make(tgt_lang)


def _chrf(name: str, make: Maker, word_order: int, tgt_lang: str) -> LexicalMetric:
    metric = CHRF(char_order=CHRF_CHARS, word_order=word_order, beta=CHRF_BETA)
    return LexicalMetric(name, make, tgt_lang, metric, metric, _chrf_statistics, chrf_scores, chrf_scores)


def _bleu(name: str, make: Maker, tokenizer: str, tgt_lang: str) -> LexicalMetric:
    corpus = _sacrebleu_bleu(name, tokenizer, tgt_lang, effective_order=False)
    sentence = _sacrebleu_bleu(name, tokenizer, tgt_lang, effective_order=True)
    formulas = partial(bleu_scores, effective_order=False), partial(bleu_scores, effective_order=True)
    return LexicalMetric(name, make, tgt_lang, corpus, sentence, _bleu_statistics, *formulas)


def bleu_tokenizer(tgt_lang: str) -> str:
    """Return the name of sacreBLEU's tokenizer for a target language."""
    return TOKENIZERS.get(macro_language(tgt_lang), "13a")


def _sacrebleu_bleu(name: str, tokenizer: str, tgt_lang: str, effective_order: bool) -> BLEU:
    try:
        return BLEU(tokenize=tokenizer, effective_order=effective_order)
    except (OSError, HTTPException, RuntimeError) as error:
        if tokenizer == SENTENCEPIECE:
            raise UserError(_no_sentencepiece(name, tgt_lang, error)) from None
        extra = f"pip install 'sacrebleu[{macro_language(tgt_lang)}]'"
        raise UserError(f"BLEU for {tgt_lang!r} needs sacreBLEU's MeCab tokenizer; install it with {extra}") from None


def _no_sentencepiece(name: str, tgt_lang: str, error: Exception) -> str:
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
    from sacrebleu.utils import SACREBLEU_DIR

    url = SPM_MODELS[SENTENCEPIECE]["url"]
    return (
        f"{name} for {tgt_lang!r} needs the SentencePiece model of {url}, which cannot be loaded or downloaded "
        f"({error}); "
        f"put it at {SACREBLEU_DIR}/models/{url.rpartition('/')[2]}, or choose --metric chrf"
    )
