"""The catalogue of filters: what makes a candidate or a pair unfit for training, each with the reason it counts under.

To add a filter, write a function, add a row to CANDIDATE_FILTERS or PAIR_FILTERS, and its setting to FilterConfig.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Self, TypeVar

from pydantic import Field, model_validator

from mtcpo.core.config import Config, PathOrName
from mtcpo.core.errors import UserError, first_line
from mtcpo.data.language_id import are_wrong, why_unchecked
from mtcpo.data.records import Candidate, Segment
from mtcpo.data.text_checks import adds_loop, edit_similarity, is_in_other_script, is_length_within

TOLERANCE = 1e-9
"""9 and 10 characters must pass a limit of 0.1, although 0.1 * 10 and 10 - 9 differ by rounding."""

TextCheck = Callable[[str, Segment], bool]
"""(text without surrounding spaces, segment) -> whether it is unfit as a translation of the segment's source."""

PairCheck = Callable[[str, str], bool]
"""(chosen, rejected), without surrounding spaces -> whether they are unfit as a pair."""

Check_co = TypeVar("Check_co", covariant=True)


class FilterConfig(Config):
    """Which candidates and pairs are left out. Lengths are in characters unless they are called tokens.

    Candidates. drop_copies: source copies. deduplicate: of equal texts all but the first; of equal triplets, too.
    max_source_length_ratio: more than so many times longer or shorter than the source. drop_repetitions: a stretch
    repeated four times or more in a row, unless the source has a repetition too (oscillation, arXiv 2104.06683).
    check_script: those with most letters in a script that the target language is not written in.
    check_language: those in another language than the target (off-target), by the identifier `lingua` (extra
    `langid`), for texts of 12 letters and more. max_tokens: longer ones, and longer sources, in tokens of the model
    that `tokenizer` names.

    Pairs. max_length_difference: |chosen - rejected| / the longer of them; 0.1 keeps pairs within 10 %.
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
    def _check_tokenizer(self) -> Self:
        if (self.max_tokens is None) != (self.tokenizer is None):
            raise ValueError("set max_tokens and tokenizer together: the limit, and the model whose tokens are counted")
        return self


@dataclass(frozen=True, slots=True)
class Filter(Generic[Check_co]):
    """A filter: a reason to leave out a candidate or a pair.

    setting: the field of [prefs] that switches it on, "" for always. title: what is left out, for help and docs.
    make_check: called once if the filter is on; loads what the check needs.
    """

    setting: str
    title: str
    make_check: Callable[[FilterConfig], Check_co]


def _empty_check(config: FilterConfig) -> TextCheck:
    return lambda text, segment: not text


def _copy_check(config: FilterConfig) -> TextCheck:
    return lambda text, segment: text == segment.source.strip()


def _length_check(config: FilterConfig) -> TextCheck:
    limit = config.max_source_length_ratio
    assert limit is not None
    return lambda text, segment: not is_length_within(text, segment.source, limit)


def _repetition_check(config: FilterConfig) -> TextCheck:
    return lambda text, segment: adds_loop(text, segment.source)


def _script_check(config: FilterConfig) -> TextCheck:
    # Cheap, and needs no package: finds off-target texts in another script.
    return lambda text, segment: is_in_other_script(text, segment.tgt_lang)


def _language_check(config: FilterConfig) -> TextCheck:
    """Return the off-target check, which uses the language identifier.

    Raises:
        UserError: it is not installed; raised by the check itself: it does not know the target language.
    """
    if missing := why_unchecked():
        raise UserError(f"check_language: {missing}")

    def is_off_target(text: str, segment: Segment) -> bool:
        if unknown := why_unchecked(segment.tgt_lang):
            raise UserError(f"check_language: {unknown}; leave it off for this language")
        return are_wrong([text], segment.tgt_lang)[0]

    return is_off_target


def _token_check(config: FilterConfig) -> TextCheck:
    return lambda text, segment: _is_too_long(text, config, as_target=True)


# Cheap filters first: a candidate counts under the first filter that it fails, and the rest are skipped.
CANDIDATE_FILTERS: dict[str, Filter[TextCheck]] = {
    "empty_text": Filter("", "candidates without text", _empty_check),
    "copy_of_source": Filter("drop_copies", "source copies", _copy_check),
    "source_length_ratio": Filter(
        "max_source_length_ratio",
        "candidates more than this many times longer or shorter than the source",
        _length_check,
    ),
    "repetition": Filter(
        "drop_repetitions",
        "candidates that repeat a stretch four or more times in a row where the source does not",
        _repetition_check,
    ),
    "wrong_script": Filter(
        "check_script", "candidates mostly in a script that the target language is not written in", _script_check
    ),
    "wrong_language": Filter(
        "check_language",
        "off-target candidates, as identified by lingua (pip install 'mtcpo[langid]')",
        _language_check,
    ),
    "too_long": Filter(
        "max_tokens",
        "candidates with more tokens than this, counted with the tokenizer that `tokenizer` names",
        _token_check,
    ),
}


def _length_difference_check(config: FilterConfig) -> PairCheck:
    limit = config.max_length_difference
    assert limit is not None

    def differ_in_length(chosen: str, rejected: str) -> bool:
        longer = max(len(chosen), len(rejected))
        return abs(len(chosen) - len(rejected)) > limit * longer + TOLERANCE

    return differ_in_length


def _similarity_check(config: FilterConfig) -> PairCheck:
    limit = config.max_similarity
    assert limit is not None
    return lambda chosen, rejected: edit_similarity(chosen, rejected) > limit + TOLERANCE


PAIR_FILTERS: dict[str, Filter[PairCheck]] = {
    "length_difference": Filter(
        "max_length_difference",
        "pairs whose lengths differ by more than this share of the longer one",
        _length_difference_check,
    ),
    "near_duplicate": Filter(
        "max_similarity",
        "pairs more similar than this: 1 - edit distance / length of the longer one",
        _similarity_check,
    ),
}


def _is_on(setting: str, config: FilterConfig) -> bool:
    value = getattr(config, setting) if setting else True
    # `is`, not truth or equality: 0 is a valid limit, and 0 == False.
    return value is not None and value is not False


class Filters:
    """The filters that a configuration switches on, with language identifier and tokenizer loaded.

    Raises:
        UserError: a package or tokenizer that a filter needs is missing.
    """

    def __init__(self, config: FilterConfig) -> None:
        self._config = config
        self._text_checks: dict[str, TextCheck] = {}
        for reason, candidate_filter in CANDIDATE_FILTERS.items():
            if _is_on(candidate_filter.setting, config):
                self._text_checks[reason] = candidate_filter.make_check(config)
        self._pair_checks: dict[str, PairCheck] = {}
        for reason, pair_filter in PAIR_FILTERS.items():
            if _is_on(pair_filter.setting, config):
                self._pair_checks[reason] = pair_filter.make_check(config)
        if config.tokenizer is not None:
            # Now, not at the first text: a missing tokenizer shows before anything is scored.
            _load_tokenizer(config.tokenizer)

    def source_rejection(self, segment: Segment) -> str:
        """Return the reason to drop a segment because of its source, or ""."""
        if not segment.source.strip():
            return "empty_source"
        return "source_too_long" if _is_too_long(segment.source, self._config, as_target=False) else ""

    def apply(self, candidates: Sequence[Candidate], segment: Segment) -> tuple[list[Candidate], Counter[str]]:
        """Return the candidates that pass all filters, and reason -> count of the others."""
        removed: Counter[str] = Counter()
        seen: set[str] = set()
        fit = []
        for candidate in candidates:
            text = candidate.text.strip()
            reason = self._text_rejection(text, segment)
            # Last: only a text that passes the other filters makes a later equal one a duplicate.
            if not reason and self._config.deduplicate and text in seen:
                reason = "same_text"
            if reason:
                removed[reason] += 1
                continue
            seen.add(text)
            fit.append(candidate)
        return fit, removed

    def _text_rejection(self, text: str, segment: Segment) -> str:
        for reason, is_unfit in self._text_checks.items():
            if is_unfit(text, segment):
                return reason
        return ""

    def pair_rejection(self, chosen: str, rejected: str) -> str:
        """Return the reason to drop a pair of texts (surrounding spaces removed), or ""."""
        for reason, are_unfit in self._pair_checks.items():
            if are_unfit(chosen, rejected):
                return reason
        return ""


def _is_too_long(text: str, config: FilterConfig, as_target: bool) -> bool:
    if config.max_tokens is None or config.tokenizer is None:
        return False
    tokenizer = _load_tokenizer(config.tokenizer)
    # text_target for targets: Marian has a separate SentencePiece model for them. Special tokens count.
    encoded = tokenizer(text_target=text) if as_target else tokenizer(text)
    return len(encoded["input_ids"]) > config.max_tokens


# Cached: this is called for every text.
@lru_cache(maxsize=1)
def _load_tokenizer(name: str) -> Callable[..., dict[str, list[int]]]:
    """Load a model's tokenizer, for sources and candidates.

    Raises:
        UserError: there is no such tokenizer, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Callable[..., dict[str, list[int]]] = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a missing or damaged file is anything from OSError to tokenizers' own Exception
        problem = first_line(error)
        raise UserError(f"tokenizer {name!r} cannot be loaded ({problem}); give a model's directory or name") from None
    return tokenizer
