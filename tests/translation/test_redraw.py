"""Samples that repeat another candidate are drawn again."""

from collections import Counter

import pytest
from support.translation import english_segments, quick_search

from mtcpo.data.records import Candidate, Segment
from mtcpo.translation.decoding import Decoder
from mtcpo.translation.mixtures import translate_by_all
from mtcpo.translation.redraw import redraw_duplicates


class Dictated:
    """An engine whose samples are written down: segment and draw -> texts."""

    system = "x"

    def __init__(self, texts):
        self.texts, self.calls = texts, []

    def too_long(self, segments, config):
        return [False] * len(segments)

    def translate(self, segments, config, draw=0):
        self.calls.append((draw, config.num_candidates, [segment.id for segment in segments]))
        made = []
        for segment in segments:
            texts = self.texts[segment.id, draw][: config.num_candidates]
            made.append([Candidate(f"x-sample-{number}", text) for number, text in enumerate(texts, start=1)])
        return made


def test_duplicates_are_replaced_by_what_further_draws_give():
    segments = [Segment(name, "en", "de", name) for name in ("one", "two", "none")]
    draws = {
        ("one", 0): ["a", "b", "a"], ("one", 1): ["b"], ("one", 2): ["c"],
        ("two", 0): ["a", "a", "a"], ("two", 1): ["a", "d"], ("two", 2): ["d"],
        ("none", 0): ["a", "b", "c"],
    }  # fmt: skip
    engine, config = Dictated(draws), quick_search(sampling="epsilon", num_candidates=3, redraw=2)
    found, counts = redraw_duplicates(engine, segments, translate_by_all(engine, segments, config), config)
    assert [[candidate.text for candidate in candidates] for candidates in found] == [
        ["a", "b", "c"], ["a", "d", "a"], ["a", "b", "c"],
    ]  # fmt: skip
    assert [candidate.system for candidate in found[0]] == ["x-sample-1", "x-sample-2", "x-sample-3"]
    # 1 + 2 in the first round, 1 + 1 in the second; one of "two" is left.
    assert counts == {"drawn_again": 5, "still_duplicate": 1}
    assert engine.calls[1:] == [(1, 1, ["one"]), (1, 2, ["two"]), (2, 1, ["one", "two"])]


def test_a_sample_that_repeats_a_beam_is_a_duplicate_and_beams_are_not_drawn_again():
    segments = [Segment("s", "en", "de", "s")]
    # Draws of a mixture of two: even for the first search, odd for the second.
    engine = Dictated({("s", 0): ["a", "a"], ("s", 1): ["a", "b"], ("s", 3): ["c"]})
    mix = [{"sampling": "beam", "num_candidates": 2}, {"sampling": "epsilon", "num_candidates": 2}]
    config = quick_search(mix=mix, redraw=1)
    decoder = Decoder(engine, config)
    (decoded,) = decoder.decode(segments)
    assert [candidate.text for candidate in decoded.candidates] == ["a", "a", "c", "b"]
    assert +decoder.counts == Counter(candidates=4, drawn_again=1)


def test_without_redraws_duplicates_are_only_counted():
    engine = Dictated({("s", 0): ["a", "a", "b"]})
    decoder = Decoder(engine, quick_search(sampling="nucleus", num_candidates=3, redraw=0))
    (decoded,) = decoder.decode([Segment("s", "en", "de", "s")])
    assert [candidate.text for candidate in decoded.candidates] == ["a", "a", "b"]
    assert +decoder.counts == Counter(candidates=3, still_duplicate=1)


@pytest.mark.parametrize("sampling", ["nucleus", "epsilon"])
def test_what_is_drawn_again_belongs_to_the_segment_too(engine, sampling):
    tiny, sources = engine("mt5", sharpen=12.0), english_segments(6)
    config = quick_search(sampling=sampling, num_candidates=6, max_new_tokens=2, redraw=3)
    once = Decoder(tiny, config.model_copy(update={"redraw": 0}))
    once.decode(sources)
    decoder = Decoder(tiny, config)
    together = decoder.decode(sources)
    assert decoder.counts["drawn_again"] > 0
    assert decoder.counts["still_duplicate"] < once.counts["still_duplicate"]
    assert [Decoder(tiny, config).decode([segment])[0] for segment in sources] == together
    assert Decoder(tiny, config).decode(sources[::-1]) == together[::-1]
