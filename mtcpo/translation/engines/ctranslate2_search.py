"""Searches with a converted model: token ids in, token ids out.

`Runner` hides the difference between CTranslate2's Translator (encoder-decoder) and Generator (decoder-only).
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2

from mtcpo.models.layouts.base import Example
from mtcpo.models.loading import LoadedModel
from mtcpo.translation.config import TranslateConfig

Ids = tuple[int, ...]

PATIENCES = (2, 4, 8, 16)
"""How many times num_beams hypotheses CTranslate2 finishes before it stops. A source for which transformers might go on
after that is searched again with the next number."""

TOKENS_PER_SOURCE = 32
"""A batch has `batch_size` sources of this length, or fewer longer or more shorter ones."""

UNSUPPORTED = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": None,
    "encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "sequence_bias": None,
    "begin_suppress_tokens": None, "exponential_decay_length_penalty": None, "guidance_scale": None,
}  # fmt: skip
"""Settings of `generate` with which a search here would differ, and the values at which they do nothing."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a model's generation config says about every search, and CTranslate2 does not read.

    ends: tokens that end a translation.
    start: the decoder's start token.
    first: a token that is always the first one, unless the target language has its own.
    suppressed: token sequences that are never generated.
    stops_early: whether beam search ends as soon as num_beams hypotheses are finished.
    forced_end: the token that is always the last one allowed.
    """

    ends: Ids
    start: int | None = None
    first: int | None = None
    suppressed: tuple[Ids, ...] = ()
    stops_early: bool = False
    forced_end: int | None = None

    @classmethod
    def of(cls, loaded: LoadedModel) -> Rules:
        """Return the rules of a loaded model."""
        config = loaded.model.generation_config
        settings = {} if loaded.model.config.is_encoder_decoder else loaded.layout.generation_settings("")
        ends = settings.get("eos_token_id", config.eos_token_id)
        start = config.decoder_start_token_id if loaded.model.config.is_encoder_decoder else None
        suppressed = list(map(tuple, config.bad_words_ids or ()))
        # A single token is a sequence of one.
        suppressed += zip(config.suppress_tokens or (), strict=True)
        first, forced_end = config.forced_bos_token_id, config.forced_eos_token_id
        forced_end = _as_tuple(forced_end)[0] if forced_end is not None else None
        return cls(_as_tuple(ends), start, first, tuple(suppressed), config.early_stopping is True, forced_end)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Rules:
        """Return rules that were written as JSON."""
        suppressed = tuple(map(tuple, values["suppressed"]))
        return cls(**{**values, "ends": tuple(values["ends"]), "suppressed": suppressed})

    def prefix(self, settings: Mapping[str, Any]) -> Ids:
        """Return the tokens that a translation begins with.

        settings: those of `generate` that depend on the target language (`Layout.generation_settings`).
        """
        start = settings.get("decoder_start_token_id", self.start)
        first = settings.get("forced_bos_token_id", self.first)
        return tuple(token for token in (start, first) if token is not None)


def unsupported_setting(loaded: LoadedModel) -> str | None:
    """Return the name of a setting in the generation config that CTranslate2 cannot follow; None if there is none."""
    config = loaded.model.generation_config
    for name, neutral in UNSUPPORTED.items():
        if getattr(config, name, neutral) not in (neutral, None):
            return name
    return None


def _as_tuple(ids: Any) -> Ids:
    return tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)


@dataclass(frozen=True, slots=True)
class Input:
    """A source, and the tokens that its translation begins with; an encoder-decoder's include the start token."""

    source: Ids
    prefix: Ids = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model runs. precision: CTranslate2's compute type."""

    precision: str
    device: str = "cpu"
    device_index: int = 0


class Runner:
    """A converted model that searches. Dimensions: S inputs, K hypotheses of an input.

    Token sequences are returned as transformers' `generate` would return them, without start token and prompt.
    """

    def __init__(self, folder: Path, loaded: LoadedModel, rules: Rules, place: Place) -> None:
        """Load a converted model.

        Args:
            folder: where it is.
            loaded: the model that it was made from, with or without weights.
            rules: of the model's searches.
            place: where it runs.
        """
        self._folder, self._place, self.rules = folder, place, rules
        self.is_encoder_decoder: bool = loaded.model.config.is_encoder_decoder
        self.vocabulary = int(loaded.model.get_output_embeddings().weight.shape[0])
        self._model = self._load(*threads())

    def _load(self, inter_threads: int, intra_threads: int) -> Any:
        kind = ctranslate2.Translator if self.is_encoder_decoder else ctranslate2.Generator
        place = self._place
        return kind(
            str(self._folder), place.device, device_index=place.device_index, compute_type=place.precision,
            inter_threads=inter_threads, intra_threads=intra_threads, max_queued_batches=-1,
        )  # fmt: skip

    def reseed(self, seed: int) -> None:
        """Load the model again with another seed, and a single worker.

        CTranslate2 seeds the random numbers of a worker when it first samples, and never again; and which of several
        workers takes a batch depends on chance.
        """
        inter_threads, intra_threads = threads()
        self._model.unload_model()
        ctranslate2.set_random_seed(seed)
        self._model = self._load(1, inter_threads * intra_threads)

    def post(self, inputs: Sequence[Input], max_new_tokens: int, **options: Any) -> list[Any]:
        """Start a batch and return its S pending results."""
        limit = self.limit(max_new_tokens)
        options |= {"end_token": list(self.rules.ends), "return_end_token": True, "asynchronous": True}
        if self.rules.suppressed:
            options["suppress_sequences"] = [_words(sequence) for sequence in self.rules.suppressed]
        sources, prefixes = [], []
        for each in inputs:
            sources.append(_words(each.source))
            prefixes.append(_words(each.prefix))
        if self.is_encoder_decoder:
            return list(self._model.translate_batch(
                sources, prefixes, max_decoding_length=limit, min_decoding_length=0, max_input_length=0, **options
            ))  # fmt: skip
        # A decoder-only model has one row: what an encoder would read, then the beginning of the translation.
        prompts = list(map(operator.add, sources, prefixes))
        options |= {"max_length": limit, "min_length": 0, "include_prompt_in_result": False}
        return list(self._model.generate_batch(prompts, **options))

    def limit(self, max_new_tokens: int) -> int:
        """Return how many tokens are searched for: not the last one if it is the end in any case."""
        return max(1, max_new_tokens - (self.rules.forced_end is not None))

    def known_tokens(self, given: Input) -> Ids:
        """Return the tokens of a translation that its input fixes: not the start token."""
        return given.prefix[1:] if self.is_encoder_decoder else given.prefix

    def continued(self, given: Input, tokens: Sequence[int]) -> Input:
        """Return the input of a translation that begins with `tokens`."""
        start = given.prefix[:1] if self.is_encoder_decoder else ()
        return Input(given.source, (*start, *tokens))

    def tokens(self, result: Any) -> list[Ids]:
        """Return the K token sequences of a finished result."""
        if self.is_encoder_decoder:
            return [tuple(map(int, words)) for words in result.hypotheses]
        return [tuple(ids) for ids in result.sequences_ids]

    def logprobs(self, examples: Sequence[Example], prefixes: Sequence[Ids], batch_size: int) -> list[float]:
        """Return the summed log-probability of each example's only target, in nats.

        Args:
            examples: sources and targets, as training has them.
            prefixes: what translations into each target's language begin with; only the start token is used.
            batch_size: examples of a batch.
        """
        sources, targets = [], []
        for example in examples:
            sources.append(_words(example.source))
            targets.append(_words(example.targets[0]))
        options = {"max_batch_size": batch_size, "max_input_length": 0}
        if self.is_encoder_decoder:
            inputs = [_words(prefix[:1]) + target for prefix, target in zip(prefixes, targets, strict=True)]
            results = self._model.score_batch(sources, inputs, **options)
            # CTranslate2 appends an end token; the target has one already.
            parts = [slice(0, len(target)) for target in targets]
        else:
            # One row again; its last positions are the target's.
            inputs = list(map(operator.add, sources, targets))
            results = self._model.score_batch(inputs, **options)
            parts = [slice(-len(target), None) for target in targets]
        return [sum(result.log_probs[part]) for result, part in zip(results, parts, strict=True)]


def _words(ids: Sequence[int]) -> list[str]:
    return list(map(str, ids))


def threads() -> tuple[int, int]:
    """Return how many batches run at the same time, and the threads of each: all cores, or OMP_NUM_THREADS in total."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    total = int(wanted) if wanted.isdigit() and int(wanted) else len(os.sched_getaffinity(0))
    # Batches side by side use cores better than threads within a batch, until the memory's bandwidth is used up.
    per_batch = max(1, total // 8)
    return total // per_batch, per_batch


def batches(inputs: Sequence[Input], rows: int, copies: int) -> list[list[int]]:
    """Split indices of inputs into batches of at most rows * TOKENS_PER_SOURCE source tokens, longest first.

    copies: outputs of an input that are decoded side by side; a batch has at least one input.
    """
    order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i].source))
    budget = rows * TOKENS_PER_SOURCE
    split: list[list[int]] = []
    width = 0
    for i in order:
        if not split or (len(split[-1]) + 1) * width > budget:
            split.append([])
            # The first source of a batch is its longest: all others are padded to its length.
            width = max(1, len(inputs[i].source)) * copies
        split[-1].append(i)
    return split


# --- beam search ------------------------------------------------------------------------------------------------------


def beam_search(
    runner: Runner, inputs: Sequence[Input], config: TranslateConfig, on_batch: Callable[[int], object]
) -> list[list[Ids]]:
    """Return the hypotheses of each input, at least `config.num_candidates`, best first; with one beam, greedy.

    Unless it is to stop early, transformers goes on after num_beams hypotheses are finished, as long as the best
    unfinished one may become better than the worst of them. CTranslate2 only knows a number of hypotheses to finish.
    So it finishes more than needed, and `_finished_by_transformers` leaves out what came too late.
    """
    outputs: list[list[Ids]] = [[] for _ in inputs]
    left = list(range(len(inputs)))
    is_exact = config.num_beams == 1 or runner.rules.stops_early
    for patience in (1,) if is_exact else PATIENCES:
        undecided = []
        for rows, results in _start(runner, inputs, left, config, patience):
            for i, result in zip(rows, results, strict=True):
                hypotheses = _hypotheses(runner, result.result(), config)
                chosen = hypotheses if is_exact else _finished_by_transformers(hypotheses, config)
                outputs[i] = [each.tokens for each in sorted(chosen, key=lambda each: -each.score)]
                # The last one counts: what came after it might count, too.
                if not is_exact and chosen[-1] is hypotheses[-1] and chosen[-1].length < config.max_new_tokens:
                    undecided.append(i)
            # Each source counts once for the progress bar, although it may be searched again.
            on_batch(len(rows) if len(left) == len(inputs) else 0)
        left = undecided
        if not left:
            break
    return outputs


def _start(
    runner: Runner, inputs: Sequence[Input], chosen: Sequence[int], config: TranslateConfig, patience: int
) -> list[tuple[list[int], list[Any]]]:
    """Start a search for the chosen inputs; return each batch's inputs, by index, and their pending results."""
    options = {"beam_size": config.num_beams, "patience": float(patience), "return_scores": True}
    options |= {"length_penalty": config.length_penalty, "num_hypotheses": config.num_beams * patience}
    started = []
    # All batches are started before the first is waited for, so that several workers find some.
    for places in batches([inputs[i] for i in chosen], config.batch_size, config.num_beams):
        rows = [chosen[place] for place in places]
        started.append((rows, runner.post([inputs[i] for i in rows], config.max_new_tokens, **options)))
    return started


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    """A finished hypothesis.

    total: log-probability. score: total / length ** length_penalty, as in transformers. is_truncated: whether it
    reached the limit without an end.
    """

    tokens: Ids
    length: int
    total: float
    score: float
    is_truncated: bool


def _hypotheses(runner: Runner, result: Any, config: TranslateConfig) -> list[_Hypothesis]:
    """Return the hypotheses of a result in the order in which they were finished, the better first."""
    hypotheses = []
    for tokens, score in zip(runner.tokens(result), result.scores, strict=True):
        total = score * len(tokens) ** config.length_penalty
        is_truncated = tokens[-1] not in runner.rules.ends
        if is_truncated and runner.rules.forced_end is not None:
            tokens = (*tokens, runner.rules.forced_end)
        score = total / len(tokens) ** config.length_penalty
        hypotheses.append(_Hypothesis(tokens, len(tokens), total, score, is_truncated))
    return sorted(hypotheses, key=lambda each: (each.length, -each.total))


def _finished_by_transformers(hypotheses: Sequence[_Hypothesis], config: TranslateConfig) -> list[_Hypothesis]:
    """Return those hypotheses that transformers would have finished, in the same order.

    It stops after a step at which the best unfinished hypothesis, by its total and its length at that step, is not
    better than the worst of the best num_beams finished ones. So a hypothesis that was finished later, and would have
    been better at each step in between, shows that transformers went on to its end. What its total was at those steps
    is not known: for a translation that ended, its total stands for it, because a trained model is sure of the last
    tokens; one that was truncated is taken to have had its present mean all the time.
    """
    finished: list[_Hypothesis] = []
    later: list[_Hypothesis] = []
    for hypothesis in hypotheses:
        later.append(hypothesis)
        if len(finished) >= config.num_beams:
            worst = sorted((each.score for each in finished), reverse=True)[config.num_beams - 1]
            steps = [hypothesis.length] if hypothesis.is_truncated else range(finished[-1].length, hypothesis.length)
            if not all(hypothesis.total / step**config.length_penalty > worst for step in steps):
                continue
        finished += later
        later.clear()
    return finished
