"""Mixtures of searches: their settings, and what becomes of the candidates."""

import pytest
from support.translation import english_segments, quick_search

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.decoding import Decoder
from mtcpo.translation.mixtures import translate_by_all
from mtcpo.translation.retry import widened

MIX = [{"sampling": "beam", "num_candidates": 2}, {"sampling": "epsilon", "num_candidates": 3}]


def names_of(candidates):
    return [candidate.system for candidate in candidates]


def texts_of(candidates):
    return [candidate.text for candidate in candidates]


def test_an_entry_has_the_keys_of_the_table_around_it():
    config = quick_search(mix=[*MIX, {"sampling": "nucleus", "temperature": 2.0}], temperature=0.5, num_beams=3)
    assert config.num_candidates == 6
    beam, epsilon, nucleus = config.searches()
    assert (beam.sampling, beam.num_candidates, beam.num_beams, beam.temperature) == ("beam", 2, 3, 0.5)
    assert (epsilon.sampling, epsilon.num_candidates, epsilon.max_new_tokens) == ("epsilon", 3, 12)
    assert (nucleus.num_candidates, nucleus.temperature) == (1, 2.0)
    assert beam.mix == ()
    assert config.summary() == "2 beam + 3 epsilon + 1 nucleus"
    # What a run writes to its recipe.toml is complete, and gives the same again.
    assert TranslateConfig(**config.model_dump(mode="json")) == config
    assert quick_search(mix=MIX, mbr="chrf").num_candidates == 5
    assert quick_search().searches() == [quick_search()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": MIX, "num_candidates": 4}, "num_candidates is 4, but the searches of `mix` give 5 together"),
        ({"mix": [{"sampling": "beam", "num_candidates": 9}]}, "mix.0: beam search with 4 beams cannot give 9"),
        ({"mix": [{"sampling": "beams"}]}, "mix.0.sampling: "),
        ({"mix": [{"seed": 3}]}, "unknown key 'mix.0.seed'"),
        ({"mix": MIX, "mbr": "chrf", "redraw": 1}, "redraw: mbr counts a sample as often as it was drawn"),
        ({"mix": ["beam"]}, "mix.0: "),
        ({"mix": "beam+epsilon"}, "mix: "),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused_in_one_line(settings, message):
    with pytest.raises(UserError) as error:
        load_section(TranslateConfig, settings, "translate")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_candidates_of_all_searches_are_put_together(engine):
    tiny, sources = engine("mt5", sharpen=3.0), english_segments(4)
    config = quick_search(mix=MIX)
    mixed = translate_by_all(tiny, sources, config)
    beam, epsilon = config.searches()
    searched, sampled = tiny.translate(sources, beam), tiny.translate(sources, epsilon, draw=1)
    for candidates, first, second in zip(mixed, searched, sampled, strict=True):
        assert texts_of(candidates) == texts_of(first) + texts_of(second)
        assert names_of(candidates) == ["tiny-beam-1", "tiny-beam-2", "tiny-sample-1", "tiny-sample-2", "tiny-sample-3"]


def test_two_searches_that_sample_share_neither_names_nor_random_numbers(engine):
    tiny = engine("mt5", sharpen=3.0)
    one = {"sampling": "epsilon", "num_candidates": 5}
    for candidates in translate_by_all(tiny, english_segments(3), quick_search(mix=[one, one])):
        assert names_of(candidates) == [f"tiny-sample-{number:02}" for number in range(1, 11)]
        assert texts_of(candidates[:5]) != texts_of(candidates[5:])
    single = {"sampling": "beam"}
    (candidates, *_) = translate_by_all(tiny, english_segments(1), quick_search(mix=[single, {"sampling": "diverse"}]))
    assert names_of(candidates) == ["tiny-beam-1", "tiny-group-1"]


def test_candidates_of_a_mix_get_logprobs(engine):
    tiny = engine("mt5", sharpen=3.0)
    decoder = Decoder(tiny, quick_search(mix=MIX, logprobs=True))
    decoded = decoder.decode(english_segments(3))
    expected = tiny.logprobs(decoded, batch_size=32)
    for segment, values in zip(decoded, expected, strict=True):
        assert [candidate.logprob for candidate in segment.candidates] == pytest.approx(values, rel=1e-5)
    assert decoder.counts["candidates"] == 15


def test_a_retry_widens_every_search_of_a_mix():
    beam, epsilon = widened(quick_search(mix=MIX, temperature=2.0), attempt=2).mix
    assert (beam.num_beams, beam.temperature) == (6, 2.0)
    assert (epsilon.num_beams, epsilon.temperature) == (2, 3.0)
