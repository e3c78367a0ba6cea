import re
import time
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import evaluate, german_outputs, german_test_set

from mtcpo.core.errors import UserError
from mtcpo.report.side_by_side import mark_differences, select_rows, words


@given(st.text(max_size=80))
def test_splitting_into_words_loses_nothing(text):
    assert "".join(words(text)) == text


def test_words_of_several_scripts():
    assert words("Der Hund, er bellt.") == ["Der", " ", "Hund", ",", " ", "er", " ", "bellt", "."]
    assert words("私はpenを") == ["私", "は", "pen", "を"]
    # A Hindi vowel sign stays with its letter.
    assert words("हिन्दी में") == ["हिन्दी", " ", "में"]


def test_one_word_differs():
    before, after = mark_differences("Der Hund bellt.", "Der Kater bellt.")
    assert before == 'Der <mark class="gone">Hund</mark> bellt.'
    assert after == 'Der <mark class="new">Kater</mark> bellt.'


def test_neighbouring_differences_are_one_mark():
    before, after = mark_differences("a b c d", "a x y d")
    assert before == 'a <mark class="gone">b c</mark> d'
    assert after == 'a <mark class="new">x y</mark> d'


def test_an_added_word_is_marked_without_its_space():
    before, after = mark_differences("a c", "a b c")
    assert before == "a c"
    assert after in ('a <mark class="new">b</mark> c', 'a<mark class="new"> b</mark> c')


def test_equal_and_empty_texts():
    assert mark_differences("gleich", "gleich") == ("gleich", "gleich")
    assert mark_differences("", "neu") == ("", '<mark class="new">neu</mark>')
    assert mark_differences("", "") == ("", "")


def test_markup_in_a_text_is_text():
    before, after = mark_differences("<script>alert(1)</script>", "<b>x & y</b>")
    assert "<script" not in before
    assert "<b>" not in after
    assert strip(after) == "<b>x & y</b>"


def strip(marked) -> str:
    return unescape(re.sub(r"</?mark[^>]*>", "", str(marked)))


@given(st.text("ab <&\"' 私。", max_size=30), st.text("ab <&\"' 私。", max_size=30))
def test_without_marks_the_texts_are_unchanged(before, after):
    marked = mark_differences(before, after)
    assert strip(marked[0]) == before
    assert strip(marked[1]) == after


def test_very_long_texts_are_compared_word_by_word_too():
    # What a model that loops may give; of processor time, so that a busy machine does not break it.
    loop = " ".join(["so"] * 20_000)
    started = time.process_time()
    before, after = mark_differences(f"Anfang {loop} Mitte {loop} Ende", f"Anfang {loop} und {loop} Ende")
    assert time.process_time() - started < 5
    assert before == f'Anfang {loop} <mark class="gone">Mitte</mark> {loop} Ende'
    assert after == f'Anfang {loop} <mark class="new">und</mark> {loop} Ende'
    longer = f"Anfang {loop} und {loop} Ende"
    assert strip(mark_differences(f"Anfang {loop} Ende", longer)[1]) == longer
    assert mark_differences("x " * 9000, "x " * 9000)[0] == "x " * 9000


@pytest.fixture(scope="module")
def segments():
    test_set = german_test_set(700)
    return evaluate(test_set, german_outputs(test_set, {"start": 0.3, "tuned": 0.2})).segments


def gain(segment) -> float:
    scores = {candidate.system: candidate.scores["chrf"] for candidate in segment.candidates}
    return scores["tuned"] - scores["start"]


def test_few_segments_are_all_shown(segments):
    selection = select_rows(segments[:50], "start", ["tuned"], "chrf")
    assert [row.number for row in selection.rows] == list(range(1, 51))
    assert (selection.total, selection.rule) == (50, "")


def test_of_many_segments_the_largest_changes_and_an_even_sample_are_shown(segments):
    selection = select_rows(segments, "start", ["tuned"], "chrf")
    shown = [row.number for row in selection.rows]
    assert len(shown) == 300
    assert shown == sorted(set(shown))
    gains = sorted(map(gain, segments))
    of_shown = sorted(gain(segments[number - 1]) for number in shown)
    assert of_shown[:100] == gains[:100]
    assert of_shown[-100:] == gains[-100:]
    assert selection.total == 700
    assert selection.rule == (
        "the 100 largest gains and losses each of tuned on chrF, and 100 spread evenly over the others"
    )


def test_a_single_system_gets_an_even_sample(segments):
    selection = select_rows(segments, "start", [], "chrf")
    assert len(selection.rows) == 400
    assert selection.rule == "400 spread evenly over the test set"
    assert max(b.number - a.number for a, b in zip(selection.rows, selection.rows[1:], strict=False)) == 2


def test_a_row_has_texts_scores_and_gains(segments):
    row = select_rows(segments[:1], "start", ["tuned"], "chrf").rows[0]
    start, tuned = row.outputs
    assert (start.system, tuned.system) == ("start", "tuned")
    assert tuned.gains["chrf"] == pytest.approx(gain(segments[0]))
    assert tuned.gains["ter"] == pytest.approx(tuned.scores["ter"] - start.scores["ter"])
    assert start.gains == {}
    assert tuned.changed is (strip(start.text) != strip(tuned.text))


def test_a_missing_translation_is_named(segments):
    with pytest.raises(UserError, match="no translation of 'third'; run mtcpo evaluate again"):
        select_rows(segments[:3], "start", ["tuned", "third"], "chrf")
