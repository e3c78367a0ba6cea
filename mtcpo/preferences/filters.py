"""What makes a candidate or a pair unfit for training: each test with its reason, under which its drops are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Self

from pydantic import Field, model_validator

from mtcpo.core.config import Config, PathOrName
from mtcpo.core.errors import UserError, first_line
from mtcpo.data.language_id import are_wrong, why_unchecked
from mtcpo.data.records import Candidate, Segment
from mtcpo.data.text_checks import edit_similarity, has_loop, is_length_within, script_share

# Names and loan words in the source's script are no fault; most letters must be in a script of the target language.
MIN_SCRIPT_SHARE = 0.5

Check = Callable[[str, Segment], bool]
"""Whether a text, stripped, is unfit as a translation of the segment's source."""


class FilterConfig(Config):
    """Which candidates and pairs are left out. Lengths are in characters unless they are called tokens.

    Of candidates. drop_copies: those that repeat the source. deduplicate: of equal texts all but the first.
    max_source_length_ratio: those that many times longer or shorter than the source. drop_repetitions: a stretch that
    repeats four times or more without a break where the source has no such loop (oscillation, arXiv 2104.06683).
    check_script: most letters in a script that the target language is not written in. check_language: another
    language than the target's, by the identifier `lingua` (extra `langid`), for texts of 12 letters and more.
    max_tokens: longer ones, and longer sources, in tokens of the model named by `tokenizer`.

    Of pairs. max_length_difference: |chosen - rejected| / the longer of them; 0.1 keeps pairs within 10 %.
    max_similarity: 1 - edit distance / the longer of them; pairs above it differ too little to learn from.
    """

    drop_copies: bool = True
    deduplicate: bool = True
    max_source_length_ratio: float | None = Field(None, gt=1)
    drop_repetitions: bool = False
    check_script: bool = False
    check_language: bool = False
    max_tokens: int | None = Field(None, ge=1)
    tokenizer: PathOrName | None = None
    max_length_difference: float | None = Field(None, ge=0, lt=1)
    max_similarity: float | None = Field(None, ge=0, lt=1)

    @model_validator(mode="after")
    def _tokens_of_a_model(self) -> Self:
        if (self.max_tokens is None) != (self.tokenizer is None):
            raise ValueError("max_tokens and tokenizer go together: tokens of which model, and how many")
        return self


class Filters:
    """The filters of a configuration, ready to use: a language identifier or tokenizer is loaded here, once.

    Raises:
        UserError: a package or a tokenizer that a filter needs is not there.
    """

    def __init__(self, config: FilterConfig) -> None:
        self._config = config
        self._count_tokens = None if config.tokenizer is None else _token_counter(config.tokenizer)
        self._checks = self._active_checks()

    def source_rejection(self, segment: Segment) -> str:
        """Return why the source has no use, or ""."""
        if not segment.source.strip():
            return "empty_source"
        return "source_too_long" if self._too_long(segment.source, target=False) else ""

    def apply(self, candidates: Sequence[Candidate], segment: Segment) -> tuple[list[Candidate], Counter[str]]:
        """Return the candidates that may be chosen or rejected, and how many were left out for which reason."""
        removed: Counter[str] = Counter()
        seen: set[str] = set()
        pool = []
        for candidate in candidates:
            text = candidate.text.strip()
            reason = next((reason for reason, is_unfit in self._checks.items() if is_unfit(text, segment)), "")
            if not reason and self._config.deduplicate and text in seen:
                reason = "same_text"
            if reason:
                removed[reason] += 1
                continue
            seen.add(text)
            pool.append(candidate)
        return pool, removed

    def pair_rejection(self, chosen: str, rejected: str) -> str:
        """Return why two texts, stripped, make no pair, or ""."""
        longer, difference = max(len(chosen), len(rejected)), abs(len(chosen) - len(rejected))
        limit = self._config.max_length_difference
        # A hair of tolerance: at 0.1, 9 against 10 characters are within it.
        if limit is not None and difference > limit * longer + 1e-9:
            return "length_difference"
        most = self._config.max_similarity
        if most is not None and edit_similarity(chosen, rejected) > most + 1e-9:
            return "near_duplicate"
        return ""

    def _active_checks(self) -> dict[str, Check]:
        """Return reason -> check, the cheap ones first; a candidate counts under the first that it fails."""
        config, ratio = self._config, self._config.max_source_length_ratio
        checks: dict[str, Check] = {"empty_text": lambda text, segment: not text}
        if config.drop_copies:
            checks["copy_of_source"] = lambda text, segment: text == segment.source.strip()
        if ratio is not None:
            checks["source_length_ratio"] = lambda text, segment: not is_length_within(text, segment.source, ratio)
        if config.drop_repetitions:
            checks["repetition"] = lambda text, segment: has_loop(text) and not has_loop(segment.source)
        if config.check_script:
            checks["wrong_script"] = lambda text, segment: script_share(text, segment.tgt_lang) < MIN_SCRIPT_SHARE
        if config.check_language:
            checks["wrong_language"] = _language_check()
        if config.max_tokens is not None:
            checks["too_long"] = lambda text, segment: self._too_long(text, target=True)
        return checks

    def _too_long(self, text: str, target: bool) -> bool:
        limit = self._config.max_tokens
        return limit is not None and self._count_tokens is not None and self._count_tokens(text, target) > limit


def _language_check() -> Check:
    """Return the check by the language identifier.

    Raises:
        UserError: it is not installed; later, when the check is made: it does not know a target language.
    """
    if missing := why_unchecked():
        raise UserError(f"check_language: {missing}")

    def is_other(text: str, segment: Segment) -> bool:
        if unknown := why_unchecked(segment.tgt_lang):
            raise UserError(f"check_language: {unknown}; leave it off for this language")
        return are_wrong([text], segment.tgt_lang)[0]

    return is_other


def _token_counter(name: str) -> Callable[[str, bool], int]:
    """Return the function (text, is it a target) -> its number of tokens, special ones included, for a model."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # a missing or damaged file is anything from OSError to the Rust library's Exception
        reason = first_line(error)
        raise UserError(f"tokenizer {name!r} cannot be loaded ({reason}); give a model's directory or name") from None

    def count(text: str, target: bool) -> int:
        # As a target: Marian has another SentencePiece model for it.
        encoded = tokenizer(text_target=text) if target else tokenizer(text)
        return len(encoded["input_ids"])

    return count
