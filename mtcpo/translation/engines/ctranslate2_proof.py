"""The engine's canary: a converted model is compared with transformers before it is used.

Like the canary of models (`mtcpo/models/canary.py`), it shows before hours are spent that a version reads a model
differently. It is taken with the first sources that are to be translated, for each language pair.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from accelerate.utils import send_to_device

from mtcpo.data.records import Candidate, Segment
from mtcpo.models.loading import LoadedModel
from mtcpo.models.prompts import TextExample
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.base import SAMPLE, EngineRefused
from mtcpo.translation.engines.ctranslate2_search import Ids, Rules
from mtcpo.translation.engines.transformers import GenerateEngine

LEAST_EQUAL = {"float32": 0.95}
"""Precision -> the share of greedy outputs that must be equal to transformers'."""

LEAST_EQUAL_ROUNDED = 0.25
"""The same for other precisions, where rounding changes outputs: it only refuses nonsense."""

TOLERANCE = 1e-3
"""Largest difference of log-probabilities, in nats per token, with which CTranslate2's are used."""

NEW_TOKENS = 64
"""The outputs are compared up to this length: untrained models never end."""

EXAMPLES, EXAMPLE_LENGTH = 2, 60
"""Of differing outputs, in the message of a refusal: their number, and characters of each."""

NUM_BEAMS = 4


@dataclass(frozen=True, slots=True)
class Proof:
    """Of a comparison: numbers of equal outputs, greedy and beam; the largest difference, in nats per token."""

    sources: int
    greedy: int
    beam: int
    logprob_error: float

    @property
    def logprobs_agree(self) -> bool:
        """Whether log-probabilities may be computed by CTranslate2."""
        return self.logprob_error <= TOLERANCE

    def __str__(self) -> str:
        return (
            f"{self.greedy} of {self.sources} greedy and {self.beam} of {self.sources} beam search outputs equal to "
            f"transformers', log-probabilities within {self.logprob_error:.1g} nats per token"
        )


class Searches(Protocol):
    """What is proved: a part of `CTranslate2Engine`."""

    precision: str

    @property
    def label(self) -> str:
        """Engine, version and precision."""
        ...

    def search(self, segments: Sequence[Segment], config: TranslateConfig) -> list[list[Ids]]:
        """Return the token sequences of a beam search, without start token and prompt, best first."""
        ...

    def own_logprobs(self, segments: Sequence[Segment], batch_size: int) -> list[list[float]]:
        """Return what `Engine.logprobs` does, computed by the engine itself."""
        ...


def prove(tested: Searches, loaded: LoadedModel, segments: Sequence[Segment]) -> Proof:
    """Compare an engine with transformers on sources of one language pair.

    Raises:
        EngineRefused: too few greedy outputs are equal; the message has the share and two examples.
    """
    segments = [replace(segment, candidates=()) for segment in segments[:SAMPLE]]
    greedy = TranslateConfig(num_beams=1, max_new_tokens=_new_tokens(loaded, segments))
    beam_search = greedy.model_copy(update={"num_beams": NUM_BEAMS})
    expected, actual = _generate(loaded, segments, greedy), _first(tested.search(segments, greedy))
    equal = _count_equal(actual, expected)
    # Greedy search decides: beam search depends on near ties and on when each program stops.
    if equal < LEAST_EQUAL.get(tested.precision, LEAST_EQUAL_ROUNDED) * len(segments):
        raise EngineRefused(_refusal(tested.label, loaded, actual, expected))
    beam = _count_equal(_first(tested.search(segments, beam_search)), _generate(loaded, segments, beam_search))
    return Proof(len(segments), equal, beam, _logprob_error(tested, loaded, segments, expected))


def as_targets(segment: Segment) -> TextExample:
    """Return a segment with the texts of its candidates as targets."""
    return replace(as_source(segment), targets=tuple(candidate.text for candidate in segment.candidates))


def _new_tokens(loaded: LoadedModel, segments: Sequence[Segment]) -> int:
    """Return how many tokens to compare: no more than the model has positions for."""
    layout = loaded.layout
    if layout.max_positions is None:
        return NEW_TOKENS
    prompt = 0
    if not loaded.model.config.is_encoder_decoder:
        prompt = max(len(example.source) for example in layout.encode(list(map(as_source, segments))))
    # Half of them: outputs are tokenized again for their log-probabilities, which may take more tokens.
    return max(2, min(NEW_TOKENS, (layout.max_positions - prompt) // 2))


def _first(outputs: Sequence[Sequence[Ids]]) -> list[Ids]:
    return [hypotheses[0] for hypotheses in outputs]


def _count_equal(actual: Sequence[Ids], expected: Sequence[Ids]) -> int:
    return sum(map(operator.eq, actual, expected))


@torch.inference_mode()
def _generate(loaded: LoadedModel, segments: Sequence[Segment], config: TranslateConfig) -> list[Ids]:
    """Return the tokens that transformers generates for segments of one language pair, up to the end token."""
    layout, model = loaded.layout, loaded.model
    batch = layout.generation_batch(layout.encode(list(map(as_source, segments))))
    settings = layout.generation_settings(segments[0].tgt_lang) | {"do_sample": False, "max_length": None}
    settings |= {"num_beams": config.num_beams, "max_new_tokens": config.max_new_tokens, "length_penalty": 1.0}
    # A model in training is compared without dropout, and left as it was.
    was_training = model.training
    model.eval()
    try:
        sequences = model.generate(**send_to_device(batch, loaded.device), **settings)
    finally:
        model.train(was_training)
    ends = Rules.of(loaded).ends
    start = 1 if model.config.is_encoder_decoder else 0
    outputs = []
    for row in layout.new_tokens(sequences, batch)[:, start:].tolist():
        at_end = next((place for place, token in enumerate(row) if token in ends), len(row))
        outputs.append(tuple(row[: at_end + 1]))
    return outputs


def as_source(segment: Segment) -> TextExample:
    """Return a segment without targets, to be tokenized."""
    return TextExample(segment.source, segment.src_lang, segment.tgt_lang, id=segment.id)


def _logprob_error(tested: Searches, loaded: LoadedModel, segments: Sequence[Segment], outputs: Sequence[Ids]) -> float:
    """Return the largest difference between both sides' log-probabilities of outputs, in nats per token.

    Infinite if there is nothing to compare: an output of an untrained model may be too long once it is tokenized again.
    """
    texts = loaded.tokenizer.batch_decode(list(map(list, outputs)), skip_special_tokens=True)
    with_outputs = []
    for segment, text in zip(segments, texts, strict=True):
        with_output = replace(segment, candidates=(Candidate("output", text.strip()),))
        if fits(loaded, [with_output]):
            with_outputs.append(with_output)
    expected = GenerateEngine(loaded, "proof").logprobs(with_outputs, SAMPLE)
    actual = tested.own_logprobs(with_outputs, SAMPLE)
    errors = []
    for ours, theirs, tokens in zip(actual, expected, outputs, strict=False):
        errors.append(abs(ours[0] - theirs[0]) / max(1, len(tokens)))
    # NaN, which `max` may hide, is no agreement.
    return max(errors) if errors and all(map(math.isfinite, errors)) else math.inf


def fits(loaded: LoadedModel, segments: Sequence[Segment]) -> bool:
    """Whether the model has positions for all sources and candidates."""
    layout = loaded.layout
    if layout.max_positions is None:
        return True
    examples = layout.encode(list(map(as_targets, segments)))
    # CTranslate2 reads the end token, too, to score one more.
    return all(layout.longest(example) < layout.max_positions for example in examples)


def _refusal(label: str, loaded: LoadedModel, actual: Sequence[Ids], expected: Sequence[Ids]) -> str:
    differing = [pair for pair in zip(actual, expected, strict=True) if pair[0] != pair[1]]
    examples = []
    for pair in differing[:EXAMPLES]:
        ours, theirs = (loaded.tokenizer.decode(list(tokens)).strip() for tokens in pair)
        examples.append(f"{ours[:EXAMPLE_LENGTH]!r} instead of {theirs[:EXAMPLE_LENGTH]!r}")
    return (
        f"{loaded.name}: {label} gives only {len(actual) - len(differing)} of {len(actual)} greedy outputs of "
        f"transformers: {'; '.join(examples)}. Use --engine transformers"
    )
