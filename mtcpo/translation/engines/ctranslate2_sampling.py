"""Sampling with a converted model: nucleus and top-k as CTranslate2 has them, epsilon by rejection.

Tokens are read from CTranslate2's callback, step by step: its results are sorted by score, so that the first of several
samples would always be the likeliest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.ctranslate2_search import Ids, Input, Runner, batches

MISSES_BEFORE_CHECK = 2
"""Rejected tokens at one position after which the likeliest token is looked up: none may be above epsilon."""


@dataclass(frozen=True, slots=True)
class Cutoff:
    """The tokens that are sampled.

    top_k: number of likeliest tokens, 0 for all. top_p: their cumulative probability. least_logprob: tokens below it
    are rejected.
    """

    top_k: int
    top_p: float = 1.0
    least_logprob: float = -math.inf

    @classmethod
    def of(cls, config: TranslateConfig, vocabulary: int) -> Cutoff:
        """Return the cutoff of a configuration, for a vocabulary of this size."""
        if config.sampling == "nucleus":
            return cls(0, config.top_p)
        if config.sampling == "top-k":
            return cls(min(config.top_k, vocabulary))
        # Neither bound removes a token with probability epsilon or more: there are at most 1 / epsilon such tokens, and
        # less than 1 - epsilon of the probability lies before the last of them, in whatever part of the vocabulary.
        # They only make rejections rare.
        top_k = min(math.floor(1 / config.epsilon), vocabulary)
        if top_k == 1:
            return cls(1)  # the likeliest token is never removed, as in transformers
        return cls(top_k, 1 - 0.9 * config.epsilon, math.log(config.epsilon))

    def options(self, config: TranslateConfig) -> dict[str, Any]:
        """Return CTranslate2's options."""
        return {
            "sampling_topk": self.top_k, "sampling_topp": self.top_p, "sampling_temperature": config.temperature,
        }  # fmt: skip


@dataclass(slots=True)
class _Recorder:
    """Callback for a batch.

    rows: tokens of each hypothesis of each input. least_logprob: tokens below it are rejected. limits: of each input's
    tokens. rejected: (input, hypothesis) of rejected tokens. logprobs: of the last token of each hypothesis.
    """

    rows: list[list[list[int]]]
    least_logprob: float
    limits: Sequence[int]
    rejected: set[tuple[int, int]] = field(default_factory=set)
    logprobs: dict[tuple[int, int], float] = field(default_factory=dict)

    def __call__(self, step: Any) -> bool:
        """Record a token; return whether this hypothesis ends here."""
        place = (step.batch_id, step.hypothesis_id)
        if step.log_prob < self.least_logprob:
            self.rejected.add(place)
            return True
        row = self.rows[step.batch_id][step.hypothesis_id]
        row.append(step.token_id)
        self.logprobs[place] = step.log_prob
        return bool(len(row) >= self.limits[step.batch_id])


@dataclass(slots=True)
class _Sample:
    """An unfinished sample.

    source, number: of the input and of the sample. tokens: those before the rejected one. misses: tokens rejected at
    this position. is_checked: whether some token has probability epsilon or more there.
    """

    source: int
    number: int
    tokens: list[int]
    misses: int = 1
    is_checked: bool = False


def sample(
    runner: Runner, inputs: Sequence[Input], config: TranslateConfig, on_batch: Callable[[int], object]
) -> list[list[Ids]]:
    """Return `config.num_candidates` samples of each input, in the order in which they were drawn.

    Epsilon sampling draws from the tokens with probability epsilon or more, renormalized (arXiv 2210.15191). It is done
    by rejection: a token below epsilon is drawn again after the same prefix until one is above.
    """
    sampler = _Sampler(runner, inputs, config)
    unfinished = sampler.first_round(on_batch)
    while unfinished:
        unfinished = sampler.draw_again(unfinished)
    return [list(map(tuple, rows)) for rows in sampler.samples]


class _Sampler:
    """The samples of all inputs, complete once a round leaves none unfinished."""

    def __init__(self, runner: Runner, inputs: Sequence[Input], config: TranslateConfig) -> None:
        self._runner, self._inputs, self._config = runner, inputs, config
        self._cutoff = Cutoff.of(config, runner.vocabulary)
        self._limit = runner.limit(config.max_new_tokens)
        self.samples: list[list[list[int]]] = [[] for _ in inputs]

    def first_round(self, on_batch: Callable[[int], object]) -> list[_Sample]:
        """Sample every input; return what was rejected."""
        copies = self._config.num_candidates
        # If only one token is possible, all samples are equal, and CTranslate2 refuses to return several.
        drawn = 1 if self._cutoff.top_k == 1 else copies
        unfinished = []
        for indices, recorder in self._decode(self._inputs, drawn):
            for place, i in enumerate(indices):
                self.samples[i] = (recorder.rows[place] * copies)[:copies]
            for place, number in sorted(recorder.rejected):
                unfinished.append(_Sample(indices[place], number, recorder.rows[place][number]))
            on_batch(len(indices))
        return unfinished

    def draw_again(self, unfinished: Sequence[_Sample]) -> list[_Sample]:
        """Continue unfinished samples after their prefixes; return what was rejected again."""
        stuck = [row for row in unfinished if row.misses >= MISSES_BEFORE_CHECK and not row.is_checked]
        complete = self._accept_likeliest(stuck)
        rows = [row for row in unfinished if id(row) not in complete]
        rejected = []
        for indices, recorder in self._decode(self._continued(rows), 1):
            for place, i in enumerate(indices):
                row, tokens = rows[i], recorder.rows[place][0]
                self.samples[row.source][row.number] = tokens
                if recorder.rejected >= {(place, 0)}:
                    is_same = len(tokens) == len(row.tokens)
                    misses = row.misses + 1 if is_same else 1
                    rejected.append(_Sample(row.source, row.number, tokens, misses, row.is_checked and is_same))
        return rejected

    def _accept_likeliest(self, rows: Sequence[_Sample]) -> set[int]:
        """Append the likeliest token where all are below epsilon: transformers, too, never removes it.

        Returns:
            The `id` of each sample that is complete with it.
        """
        complete = set()
        for indices, recorder in self._decode(self._continued(rows), 1, only_likeliest=True):
            for place, i in enumerate(indices):
                row, tokens = rows[i], recorder.rows[place][0]
                row.is_checked = recorder.logprobs[place, 0] >= self._cutoff.least_logprob
                if row.is_checked:
                    continue
                row.tokens, row.misses = tokens, 0
                self.samples[row.source][row.number] = tokens
                if tokens[-1] in self._runner.rules.ends or len(tokens) >= self._limit:
                    complete.add(id(row))
        return complete

    def _continued(self, rows: Sequence[_Sample]) -> list[Input]:
        return [self._runner.continued(self._inputs[row.source], row.tokens) for row in rows]

    def _decode(
        self, inputs: Sequence[Input], copies: int, only_likeliest: bool = False
    ) -> Iterator[tuple[list[int], _Recorder]]:
        """Yield each batch's indices of inputs, and its finished recorder.

        only_likeliest: decode one more token, the likeliest, whatever its probability.
        """
        started = []
        for indices in batches(inputs, self._config.batch_size, copies):
            batch = [inputs[i] for i in indices]
            known = [self._runner.known_tokens(each) for each in batch]
            # An encoder-decoder's callback sees the tokens of the prefix, too.
            seen = [[] if self._runner.is_encoder_decoder else tokens for tokens in known]
            rows = [[list(tokens) for _ in range(copies)] for tokens in seen]
            if only_likeliest:
                recorder = _Recorder(rows, -math.inf, [len(tokens) + 1 for tokens in known])
                options: dict[str, Any] = {"sampling_topk": 1}
            else:
                recorder = _Recorder(rows, self._cutoff.least_logprob, [self._limit] * len(batch))
                options = self._cutoff.options(self._config)
            options |= {"beam_size": 1, "num_hypotheses": copies, "callback": recorder, "return_scores": True}
            started.append((indices, recorder, self._runner.post(batch, self._config.max_new_tokens, **options)))
        for indices, recorder, results in started:
            for result in results:
                result.result()
            yield indices, recorder
