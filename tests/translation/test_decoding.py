"""Sources that are longer than the model takes."""

import pytest
from support.translation import english_segments, quick_search

from mtcpo.data.records import Segment
from mtcpo.models.prompts import TextExample
from mtcpo.translation.decoding import Decoder


@pytest.mark.parametrize("kind", ["marian", "llama"])
def test_a_source_longer_than_the_model_takes_gets_one_empty_candidate(engine, kind):
    tiny = engine(kind)
    layout = tiny.loaded.layout
    short = english_segments(3)
    # One more word at a time, to the last source that fits and the first that does not.
    words = 1
    while not tiny.too_long([Segment("long", "en", "de", "a " * words)], quick_search())[0]:
        words += 1
    fits, long = (Segment(str(n), "en", "de", "a " * n) for n in (words - 1, words))
    decoder = Decoder(tiny, quick_search(num_candidates=2, logprobs=True))
    decoded = decoder.decode([short[0], long, fits, short[1]])
    assert [[bool(each.text) for each in segment.candidates] for segment in decoded[::3]] == [[True, True]] * 2
    assert [(each.system, each.text, each.logprob) for each in decoded[1].candidates] == [("tiny", "", None)]
    assert len(decoded[2].candidates) == 2
    assert decoder.counts["too_long_for_model"] == 1
    alone = Decoder(tiny, quick_search(num_candidates=2, logprobs=True)).decode([short[0], short[1]])
    for beside, by_itself in zip(decoded[::3], alone, strict=True):
        for candidate, expected in zip(beside.candidates, by_itself.candidates, strict=True):
            assert candidate.text == expected.text
            assert candidate.logprob == pytest.approx(expected.logprob, abs=1e-3)
    # A decoder-only model has the translation, of up to 12 tokens, after the prompt.
    (example,) = layout.encode([TextExample(fits.source, "en", "de")])
    assert layout.max_positions - 1 <= len(example.source) + (12 if kind == "llama" else 0) <= layout.max_positions


def test_relative_positions_have_no_limit(engine):
    tiny = engine("mt5")
    assert tiny.too_long([Segment("long", "en", "de", "a " * 5000)], quick_search()) == [False]
