"""Samples of CTranslate2 against the exact distributions, computed from the model's own logits."""

import math
from collections import Counter

import pytest
import torch
from support.ctranslate2 import ct2_engine, texts_of
from support.translation import english_segments, quick_search

from mtcpo.models.prompts import TextExample
from mtcpo.translation.engines.ctranslate2_sampling import sample
from mtcpo.translation.engines.ctranslate2_search import batches

pytestmark = pytest.mark.slow


@pytest.fixture
def sharp(load):
    """A function from a kind to a loaded model with a few likely tokens at each step."""

    def loaded(kind, factor):
        model = load(kind)
        with torch.no_grad():
            model.model.get_output_embeddings().weight.mul_(factor)
        return model

    return loaded


def next_probabilities(loaded, example, tokens):
    """The model's probabilities of the token after `tokens`, (V,)."""
    with torch.no_grad():
        if loaded.model.config.is_encoder_decoder:
            start = [loaded.model.config.decoder_start_token_id]
            ids = {"input_ids": torch.tensor([example.source]), "decoder_input_ids": torch.tensor([start + tokens])}
        else:
            ids = {"input_ids": torch.tensor([[*example.source, *tokens]])}
        return loaded.model(**ids).logits[0, -1].double()


def truncated(logits, settings):
    """The probabilities of what may be sampled, renormalized."""
    probabilities = torch.softmax(logits / settings.temperature, -1)
    order = probabilities.argsort(descending=True)
    if settings.sampling == "epsilon":
        kept = probabilities >= settings.epsilon
    elif settings.sampling == "top-k":
        kept = torch.zeros_like(probabilities, dtype=torch.bool).scatter_(0, order[: settings.top_k], True)
    else:
        before = probabilities[order].cumsum(0) - probabilities[order]
        kept = torch.zeros_like(probabilities, dtype=torch.bool).scatter_(0, order[before < settings.top_p], True)
    kept[order[0]] = True
    return (probabilities * kept) / (probabilities * kept).sum()


SETTINGS = {
    "epsilon": {"epsilon": 0.04},
    "nucleus": {"top_p": 0.7, "temperature": 0.8},
    "top-k": {"top_k": 6, "temperature": 1.3},
}


@pytest.mark.parametrize("sampling", SETTINGS)
@pytest.mark.parametrize(("kind", "factor"), [("mt5", 3.0), ("llama", 30.0)])
def test_pairs_of_tokens_have_their_exact_probabilities(sharp, kind, factor, sampling):
    loaded, segments = sharp(kind, factor), english_segments(2)
    engine, count = ct2_engine(loaded), 2000
    settings = quick_search(sampling=sampling, num_candidates=count, max_new_tokens=2, **SETTINGS[sampling])
    engine._runner.reseed(7)
    found = sample(engine._runner, engine._inputs(segments), settings, lambda sources: None)
    ends = engine._runner.rules.ends
    examples = loaded.layout.encode([TextExample(s.source, "en", "de") for s in segments])
    for example, samples in zip(examples, found, strict=True):
        counts = Counter(tuple(tokens) for tokens in samples)
        expected = {}
        first = truncated(next_probabilities(loaded, example, []), settings)
        for token in first.nonzero().flatten().tolist():
            if token in ends:
                expected[token,] = float(first[token])
                continue
            second = truncated(next_probabilities(loaded, example, [token]), settings)
            for follower in second.nonzero().flatten().tolist():
                expected[token, follower] = float(first[token] * second[follower])
        assert counts.keys() <= expected.keys(), "a token that may not be sampled"
        assert len(counts) > 1
        for pair, probability in expected.items():
            # Five standard deviations of a binomial count.
            deviation = math.sqrt(count * probability * (1 - probability))
            assert abs(counts[pair] - count * probability) <= 5 * deviation + 1


def test_where_all_tokens_are_below_epsilon_the_likeliest_is_taken(load):
    """The output of a new model is nearly uniform: each token has less than 0.1."""
    loaded, segments = load("mt5"), english_segments(3)
    engine = ct2_engine(loaded)
    settings = quick_search(sampling="epsilon", epsilon=0.1, num_candidates=3, max_new_tokens=5)
    greedy = texts_of(engine.translate(segments, quick_search(num_beams=1, max_new_tokens=5)))
    assert texts_of(engine.translate(segments, settings)) == [[text] * 3 for (text,) in greedy]


@pytest.mark.parametrize("epsilon", [0.51, 0.9])
def test_an_epsilon_above_a_half_is_greedy_search(sharp, epsilon):
    loaded, segments = sharp("mt5", 8.0), english_segments(4)
    engine = ct2_engine(loaded)
    greedy = texts_of(engine.translate(segments, quick_search(num_beams=1)))
    settings = quick_search(sampling="epsilon", epsilon=epsilon, num_candidates=2)
    assert texts_of(engine.translate(segments, settings)) == [[text] * 2 for (text,) in greedy]


@pytest.mark.parametrize("sampling", SETTINGS)
def test_segments_seed_and_draw_determine_the_samples(sharp, sampling):
    loaded, segments = sharp("mt5", 3.0), english_segments(5)
    engine = ct2_engine(loaded)
    settings = quick_search(sampling=sampling, num_candidates=4, **SETTINGS[sampling])
    first = texts_of(engine.translate(segments, settings))
    assert texts_of(engine.translate(segments, settings, draw=1)) != first
    assert texts_of(engine.translate(segments, settings.model_copy(update={"seed": 5}))) != first
    # Whatever was translated before, and by another engine for the same model.
    assert texts_of(engine.translate(segments, settings)) == first
    assert texts_of(ct2_engine(loaded).translate(segments, settings)) == first
    assert max(len(set(texts)) for texts in first) > 1


def test_samples_are_in_the_order_in_which_they_were_drawn(sharp):
    """CTranslate2 sorts them by score: the first of several would be the likeliest, not a sample."""
    loaded, segments = sharp("mt5", 3.0), english_segments(8)
    engine = ct2_engine(loaded)
    settings = quick_search(sampling="top-k", top_k=20, num_candidates=8, max_new_tokens=6)
    engine._runner.reseed(1)
    scored = []
    for segment, candidates in zip(segments, engine.translate(segments, settings), strict=True):
        scored.append(type(segment)(segment.id, "en", "de", segment.source, candidates=tuple(candidates)))
    best_first = [logprobs[0] == max(logprobs) for logprobs in engine.own_logprobs(scored, 8)]
    assert sum(best_first) < 6


def test_samples_are_as_long_as_allowed_and_begin_with_the_language(load):
    loaded, segments = load("nllb"), english_segments(4)
    engine = ct2_engine(loaded)
    settings = quick_search(sampling="top-k", top_k=20, num_candidates=3, max_new_tokens=6)
    engine._runner.reseed(3)
    language = loaded.layout.generation_settings("de")["forced_bos_token_id"]
    for samples in sample(engine._runner, engine._inputs(segments), settings, lambda sources: None):
        assert {tokens[0] for tokens in samples} == {language}
        for tokens in samples:
            assert len(tokens) == 6 or tokens[-1] in engine._runner.rules.ends


def test_batches_hold_a_budget_of_tokens_longest_first():
    from mtcpo.translation.engines.ctranslate2_search import Input

    inputs = [Input((1,) * length) for length in (3, 40, 10, 20, 10)]
    # Two rows of 32 tokens: the source of 40 fills a batch, then 20 + 20 + 20, then what is left.
    assert batches(inputs, 2, 1) == [[1], [3, 2, 4], [0]]
    assert batches(inputs, 2, 8) == [[1], [3], [2], [4], [0]]
