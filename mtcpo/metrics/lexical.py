"""The lexical metrics: BLEU, spBLEU, chrF, chrF++ and TER, equal to sacreBLEU's but faster.

sacreBLEU tokenizes and counts TER's edits; `lexical_statistics` counts n-grams and has the score formulas. Tests
compare all of it with sacreBLEU's results.

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
from mtcpo.metrics.lexical_statistics import (
    CHRF_BETA,
    CHRF_CHARS,
    bleu_pairs,
    bleu_scores,
    bleu_statistics,
    chrf_against_sum,
    chrf_pairs,
    chrf_scores,
    chrf_statistics,
    ter_pairs,
    ter_scores,
    ter_statistics,
)
from mtcpo.metrics.sacrebleu_internals import clear_tokenizer_caches, signature_of

SENTENCEPIECE = "flores200"  # what "spBLEU" means since NLLB

TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"} | dict.fromkeys(
    ("th", "lo", "km", "my", "bo", "dz", "shn"), SENTENCEPIECE
)
"""sacreBLEU's tokenizers for languages written without spaces between words; all others get mteval's 13a."""


Count = Callable[[Any, Sequence[str], Sequence[str]], Array]
"""(sacreBLEU's metric, texts, references) -> statistics."""

Maker = Callable[[str], "LexicalMetric"]
"""From a BCP-47 target language to a metric; what METRICS loads."""


@dataclass(frozen=True, slots=True)
class LexicalMetric(Metric):
    """A metric computed from counts of n-grams or edits.

    make: the function that creates it, for worker processes. corpus, sentence: sacreBLEU's metric, set up for each;
    they differ only in BLEU's effective order.
    count: returns the statistics of texts against references, at least one of each. count_pairs: of each text against
    each reference alone, (C, R, K). count_aggregate: of each text against the mean of the references, (C, K), if that
    can be computed.
    """

    name: str
    make: Maker
    tgt_lang: str
    corpus: BLEU | CHRF | TER
    sentence: BLEU | CHRF | TER
    count: Count
    count_pairs: Count
    corpus_formula: Callable[[Array], Array]
    sentence_formula: Callable[[Array], Array]
    count_aggregate: Count | None = None
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

    def score_pairs(self, segments: Sequence[Segment]) -> list[Array]:
        """Return, for each segment, the sentence score of each candidate against each reference alone. Shape (C, R)."""
        pairs = [self._scores_by(self.count_pairs, segment) for segment in segments]
        clear_tokenizer_caches(self.sentence)
        return pairs

    @property
    def can_aggregate(self) -> bool:
        """Whether texts can be compared with the mean of the references: chrF and chrF++."""
        return self.count_aggregate is not None

    def score_against_aggregate(self, segments: Sequence[Segment]) -> list[Array]:
        """Return, for each segment, the score of each candidate against the references' mean n-gram counts. (C,)."""
        assert self.count_aggregate is not None
        return [self._scores_by(self.count_aggregate, segment) for segment in segments]

    def _scores_by(self, count: Count, segment: Segment) -> Array:
        """Return the sentence scores of the statistics that `count` returns for a segment."""
        texts = [candidate.text for candidate in segment.candidates]
        if not texts or not segment.references:
            return np.zeros((len(texts), len(segment.references)))
        return self.segment_scores(count(self.sentence, texts, segment.references))

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
    parts = TER(), TER(), ter_statistics, ter_pairs, ter_scores, ter_scores
    return LexicalMetric("ter", ter, tgt_lang, *parts, higher_is_better=False)


# Cached: a worker unpickles the metric with every task, and spBLEU would load a SentencePiece model each time.
@lru_cache(maxsize=64)
def _metric_in_this_process(make: Maker, tgt_lang: str) -> LexicalMetric:
    return make(tgt_lang)


def _chrf(name: str, make: Maker, word_order: int, tgt_lang: str) -> LexicalMetric:
    metric = CHRF(char_order=CHRF_CHARS, word_order=word_order, beta=CHRF_BETA)
    counts = chrf_statistics, chrf_pairs
    return LexicalMetric(name, make, tgt_lang, metric, metric, *counts, chrf_scores, chrf_scores, chrf_against_sum)


def _bleu(name: str, make: Maker, tokenizer: str, tgt_lang: str) -> LexicalMetric:
    corpus = _sacrebleu_bleu(name, tokenizer, tgt_lang, effective_order=False)
    sentence = _sacrebleu_bleu(name, tokenizer, tgt_lang, effective_order=True)
    formulas = partial(bleu_scores, effective_order=False), partial(bleu_scores, effective_order=True)
    return LexicalMetric(name, make, tgt_lang, corpus, sentence, bleu_statistics, bleu_pairs, *formulas)


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
