"""Every private function of sacreBLEU that mtcpo calls.

sacreBLEU's public functions return scores alone and prepare the references again for each hypothesis. These are the
steps inside them, in sacreBLEU 2.x (pyproject.toml pins <3); tests/metrics/test_lexical.py compares what is built on
them with the public `sentence_score` and `corpus_score`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any


def split_words(bleu: Any, text: str) -> list[str]:
    """Return the words of a text, tokenized as BLEU does."""
    words: list[str] = bleu._preprocess_segment(text).split()
    return words


def closest_length(bleu: Any, length: int, reference_lengths: Sequence[int]) -> int:
    """Return the reference length closest to a hypothesis's (the shorter in a tie), for BLEU's brevity penalty."""
    return int(bleu._get_closest_ref_len(length, reference_lengths))


def strip_punctuation(chrf: Any, text: str) -> list[str]:
    """Return the words of a text, with punctuation split off as in chrF++."""
    words: list[str] = chrf._remove_punctuation(text)
    return words


def edits_and_lengths(ter: Any, texts: Sequence[str], references: Sequence[str]) -> list[list[float]]:
    """Return (edits, mean reference length) of each text."""
    # The public function prepares the references again for each text.
    prepared = ter._extract_reference_info(list(map(ter._preprocess_segment, references)))
    return [ter._compute_segment_statistics(ter._preprocess_segment(text), prepared) for text in texts]


def signature_of(metric: Any, num_references: int) -> str:
    """Return sacreBLEU's signature for this number of references; -1 becomes "var"."""
    # The number is an attribute that the last score has set; a copy, because the metric object is shared.
    described = copy.copy(metric)
    described.num_refs = num_references
    return str(described.get_signature())


def clear_tokenizer_caches(metric: Any) -> None:
    """Empty the caches of sacreBLEU's tokenizers: they keep 65,536 texts, which a stream never repeats."""
    tokenizer = getattr(metric, "tokenizer", None)
    for part in (tokenizer, getattr(tokenizer, "_post_tokenizer", None)):
        clear = getattr(type(part).__call__, "cache_clear", None)
        if clear is not None:
            clear()
