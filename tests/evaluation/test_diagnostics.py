import importlib.util

import pytest

from mtcpo.data.language_id import count_wrong, why_unchecked
from mtcpo.data.records import Segment
from mtcpo.evaluation.diagnostics import diagnose
from mtcpo.evaluation.evaluate import evaluate_outputs
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.registry import load_metric

HAS_LINGUA = importlib.util.find_spec("lingua") is not None
needs_lingua = pytest.mark.skipif(not HAS_LINGUA, reason="lingua is not installed")


def de_set(*rows):
    segments = tuple(Segment(f"t:{n}", "en", "de", source, references) for n, (source, *references) in enumerate(rows))
    return TestSet("tiny", "en", "de", segments, "by hand")


def test_a_repetition_that_the_source_has_too_is_not_counted():
    source = "Row, row, row, row, row your boat"
    found = diagnose(de_set((source, "Rudere")), [source.replace("boat", "Boot")])
    assert (found["looping"], found["copied"]) == (0, 0)


def test_empty_copied_and_looping_outputs_are_counted():
    test_set = de_set(("a", "x"), ("b", "y"), ("ccc", "z"), ("d", "w"))
    found = diagnose(test_set, ["", " \t", "ccc ", "so so so so so so so so"])
    assert (found["empty"], found["copied"], found["looping"]) == (2, 1, 1)


@pytest.mark.skipif(HAS_LINGUA, reason="lingua is installed")
def test_without_lingua_evaluation_json_records_that_languages_were_not_checked():
    entry = evaluate_outputs(de_set(("a", "x")), {"s": ["x"]}, [load_metric("chrf", "de")]).entry
    assert entry.systems["s"].wrong_language is None
    assert entry.unchecked == {"wrong_language": "lingua is not installed: pip install 'mtcpo[langid]'"}


@needs_lingua
def test_off_target_outputs_are_counted_and_doubtful_ones_are_not():
    german = "Die Kinder spielen heute Nachmittag mit dem Hund im Garten."
    english = "The children are playing with the dog in the garden this afternoon."
    french = "Les enfants jouent cet après-midi avec le chien dans le jardin."
    assert count_wrong([german, english, french], [[german]] * 3, "de") == 2
    assert count_wrong([german, english, french], [[]] * 3, "de") == 2
    # A reference that is itself in another language shows that the segment cannot be judged.
    assert count_wrong([english], [[english + " And so on."]], "de") == 0
    assert count_wrong([french], [[english]], "de") == 0
    assert count_wrong(["Ok.", "DSA 5", ""], [[german]] * 3, "de") == 0


@needs_lingua
def test_a_language_that_lingua_does_not_know_is_reported():
    assert why_unchecked("de") == ""
    assert why_unchecked("zh-Hans") == ""
    assert why_unchecked("sah") == "lingua does not know 'sah'"
