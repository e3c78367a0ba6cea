"""Beam search that drops finished sources, against that of transformers."""

import pytest
import torch
from support.translation import english_segments, quick_search
from transformers import LogitsProcessor, LogitsProcessorList

from mtcpo.models.prompts import TextExample
from mtcpo.translation.engines.beam_search import beam_search, drops_sources, greedy_search
from mtcpo.translation.engines.transformers import GenerateEngine

pytestmark = pytest.mark.slow

FAMILIES = ["mt5", "t5", "nllb", "m2m100", "mbart-cc25", "mbart-50", "marian", "madlad"]


class LikelierEnds(LogitsProcessor):
    """Make the end token likelier with every token, so that random models end, each source at its own length."""

    def __init__(self, end, nats):
        self.end, self.nats = end, nats

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, self.end] += self.nats * input_ids.shape[1]
        return scores


def both(loaded, count=6, nats=0.8, search=beam_search, **settings):
    """The token ids of `generate` by its own search and by ours, without the padding."""
    examples = loaded.layout.encode([TextExample(s.source, "en", "de") for s in english_segments(count)])
    batch = loaded.layout.generation_batch(examples)
    settings = loaded.layout.generation_settings("de") | {"max_length": None, "max_new_tokens": 14} | settings
    found = []
    likelier_ends = LogitsProcessorList([LikelierEnds(loaded.tokenizer.eos_token_id, nats)])
    for changed in ({}, {"custom_generate": search}):
        with torch.inference_mode():
            sequences = loaded.model.eval().generate(**batch, **settings, **changed, logits_processor=likelier_ends)
        found.append([without_padding(row, loaded, settings) for row in sequences.tolist()])
    return found


def without_padding(row, loaded, settings):
    """Tokens up to the first end token; where the padding token is 0, `generate` pads with the end token instead."""
    ends = settings.get("eos_token_id", [loaded.tokenizer.eos_token_id])
    # The first token starts the decoder: in some models it is the end token.
    length = next((n for n, token in enumerate(row[1:], start=2) if token in ends), len(row))
    return row[:length]


def scattered(load, kind):
    """A tiny model whose weights are so large that its outputs depend on the source, and end after few tokens."""
    loaded = load(kind)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.35)
    return loaded


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("num_beams", [2, 5])
def test_outputs_are_those_of_transformers(load, kind, num_beams):
    loaded = scattered(load, kind)
    assert drops_sources(loaded.model)
    nats = {"t5": 0.15, "mbart-50": 2.5}.get(kind, 0.8)
    theirs, ours = both(loaded, nats=nats, num_beams=num_beams, num_return_sequences=2)
    assert ours == theirs
    assert len(set(map(tuple, theirs))) > 3, "the model says the same whatever the source"


@pytest.mark.parametrize("kind", FAMILIES)
def test_greedy_outputs_are_those_of_transformers(load, kind):
    nats = {"t5": 0.15, "mbart-50": 2.5}.get(kind, 0.8)
    theirs, ours = both(scattered(load, kind), nats=nats, search=greedy_search, num_beams=1, do_sample=False)
    assert ours == theirs
    assert len(set(map(tuple, theirs))) > 2, "the model says the same whatever the source"


def test_greedy_search_drops_finished_rows_and_what_processors_keep_for_them(load):
    """Random numbers stay with their rows: all rows together give what each gives alone."""
    loaded, sources = scattered(load, "mt5"), english_segments(6)
    engine = GenerateEngine(loaded, "tiny")
    rows = []
    loaded.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    config = quick_search(sampling="top-k", num_candidates=4, max_new_tokens=40, temperature=3.0)
    together = engine.translate(sources, config)
    assert rows[0] == 24
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < 24
    assert [engine.translate([segment], config)[0] for segment in sources] == together


@pytest.mark.parametrize(
    "settings",
    [
        {"length_penalty": 0.0}, {"length_penalty": 2.0}, {"length_penalty": -1.0}, {"early_stopping": True},
        {"early_stopping": "never"}, {"early_stopping": "never", "length_penalty": 0.3}, {"min_new_tokens": 6},
        {"no_repeat_ngram_size": 2}, {"repetition_penalty": 1.5}, {"bad_words_ids": [[7], [9]]},
        {"forced_eos_token_id": 1}, {"max_new_tokens": 1}, {"eos_token_id": [1, 5, 6]},
    ],
    ids=str,
)  # fmt: skip
def test_the_settings_of_generate_keep_their_meaning(load, settings):
    theirs, ours = both(scattered(load, "mt5"), num_beams=4, num_return_sequences=4, **settings)
    assert ours == theirs


def test_finished_sources_are_dropped(load):
    """Six sources with three beams each: `generate` ends with all of them, and we with fewer."""
    loaded, rows = scattered(load, "mt5"), []
    loaded.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    theirs, ours = both(loaded, num_beams=3)
    assert ours == theirs
    assert rows[0] == 18
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < 18
