"""Degenerate translations are found, translated again with a wider search, and replaced where that mends them."""

from collections import Counter

import pytest
from support.translation import quick_search

from mtcpo.data.language_id import why_unchecked
from mtcpo.data.records import Candidate, Segment
from mtcpo.translation.decoding import Decoder
from mtcpo.translation.retry import RETRY_DRAW, DegeneracyChecker, retry_degenerate, widened

GOOD = "Die Mühle steht am Fluss."
BAD = {
    "empty_text": " ",
    "copy_of_source": "The mill stands by the river.",
    "repetition": "die Mühle die Mühle die Mühle die Mühle",
    "wrong_script": "Мельница стоит у реки.",
}


def sources(count):
    return [Segment(str(n), "en", "de", BAD["copy_of_source"]) for n in range(count)]


def as_candidates(rows):
    return [[Candidate(f"x-{n}", text) for n, text in enumerate(texts)] for texts in rows]


class ScriptedEngine:
    """An engine whose outputs are given by id and call; it notes its calls."""

    name = system = "scripted"

    def __init__(self, outputs):
        self.outputs, self.calls = outputs, []

    def too_long(self, segments, config):
        return [False] * len(segments)

    def translate(self, segments, config, draw=0):
        self.calls.append(([segment.id for segment in segments], config.temperature, config.num_beams, draw))
        turn = len(self.calls) - 1
        return as_candidates([self.outputs[segment.id][turn] for segment in segments])


@pytest.mark.parametrize("reason", BAD)
def test_each_reason_is_found_and_counted(reason):
    checker = DegeneracyChecker(sources(2), as_candidates([[GOOD], [BAD[reason]]]))
    assert checker.reasons({(0, 0): GOOD, (1, 0): BAD[reason]}) == {(1, 0): reason}


@pytest.mark.skipif(bool(why_unchecked("de")), reason="needs lingua")
def test_an_off_target_translation_is_found():
    checker = DegeneracyChecker(sources(1), as_candidates([[GOOD]]))
    assert checker.reasons({(0, 0): "Le moulin se trouve au bord de la rivière."}) == {(0, 0): "wrong_language"}


def test_languages_that_cannot_be_identified_are_counted():
    counts = Counter()
    segments = [Segment("1", "en", "tlh", "a small mill")]
    retry_degenerate(ScriptedEngine({}), segments, as_candidates([["mach 'ej"]]), quick_search(retry=1), counts)
    assert counts["language_unchecked"] == 1


def test_an_outlier_of_length_is_far_from_the_median_of_its_window():
    # 20 characters each: ratios 1.0 (12 times), 1.1 and 0.9 (twice each). Of the distances from the median 0, most are
    # 0, so that the limit is log 2.
    segments = [Segment(str(n), "en", "de", "abcde " * 3 + "fg") for n in range(16)]
    texts = ["x" * 20] * 12 + ["x" * 22] * 2 + ["x" * 18] * 2
    checker = DegeneracyChecker(segments, as_candidates([[text] for text in texts]))
    lengths = {41: True, 40: False, 39: False, 11: False, 9: True}
    letters = "qwertzuiopasdfghjklyxcvbnm" * 2
    found = checker.reasons({(0, length): letters[:length] for length in lengths})
    # A text that is not even German counts as off-target instead.
    outliers = {length for (_, length), reason in found.items() if reason == "length"}
    assert outliers == {n for n, is_outlier in lengths.items() if is_outlier}


def test_lengths_of_a_few_translations_are_not_judged():
    checker = DegeneracyChecker(sources(15), as_candidates([[GOOD]] * 15))
    assert checker.reasons({(0, 0): "Mühle"}) == {}


def test_a_retry_widens_the_search():
    sampled = quick_search(sampling="epsilon", temperature=0.8, num_candidates=8)
    assert [widened(sampled, attempt).temperature for attempt in (1, 2)] == [1.0, pytest.approx(1.2)]
    assert [widened(quick_search(num_beams=4), attempt).num_beams for attempt in (1, 2)] == [8, 12]
    diverse = widened(quick_search(sampling="diverse", num_candidates=5, num_beams=1), 1)
    assert (diverse.sampling, diverse.num_beams, diverse.num_candidates) == ("beam", 10, 5)


def test_only_degenerate_candidates_are_replaced_and_only_by_better_ones():
    outputs = {
        "0": [[GOOD, "Die andere."]],
        "1": [["", GOOD], ["Erste.", "Zweite."]],
        "2": [["", BAD["repetition"]], ["Dritte.", ""], ["Vierte.", BAD["repetition"]]],
    }
    engine = ScriptedEngine(outputs)
    decoder = Decoder(engine, quick_search(sampling="epsilon", num_candidates=2, retry=2))
    decoded = decoder.decode(sources(3))
    assert [[candidate.text for candidate in segment.candidates] for segment in decoded] == [
        [GOOD, "Die andere."], ["Erste.", GOOD], ["Dritte.", BAD["repetition"]],
    ]  # fmt: skip
    assert [candidate.system for candidate in decoded[2].candidates] == ["x-0", "x-1"]
    assert engine.calls == [
        (["0", "1", "2"], 1.0, 2, 0), (["1", "2"], 1.25, 2, RETRY_DRAW + 1), (["2"], 1.5, 2, RETRY_DRAW + 2),
    ]  # fmt: skip
    figures = {name: number for name, number in decoder.counts.items() if name != "language_unchecked"}
    assert figures == {
        "candidates": 6, "degenerate": 3, "degenerate_empty_text": 2, "degenerate_repetition": 1, "mended": 2,
        "still_degenerate": 1, "too_long_for_model": 0,
    }  # fmt: skip


def test_it_is_off_by_default():
    engine = ScriptedEngine({"0": [[""]]})
    decoder = Decoder(engine, quick_search())
    assert decoder.decode(sources(1))[0].candidates[0].text == ""
    assert len(engine.calls) == 1
    assert "degenerate" not in decoder.counts
