"""Checks of texts by arithmetic alone: repetitions, scripts, lengths, edit similarity."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcpo.data.text_checks import edit_similarity, has_loop, is_length_within, script_share


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("the cat the cat the cat the cat", True),
        ("the cat the cat the cat", False),
        ("the cat the\tcat the  cat the cat", True),
        ("Ich bin da. Ich bin da. Ich bin da. Ich bin da. Ja.", True),
        ("一二三四一二三四一二三四一二三四", True),
        ("一二三四一二三四一二三四", False),
        ("aaaaaaaaaaaaaaaa", True),
        ("Na ja ...", False),
        ("Contents ................ 12", False),
        ("ha ha ha", False),
        ("He was very, very, very tired of it.", False),
        ("1,000,000,000 people", False),
        ("", False),
    ],
)
def test_four_occurrences_in_a_row_are_a_repetition(text, loops):
    assert has_loop(text) is loops


@pytest.mark.parametrize(
    "text",
    [
        "the cat sat on the cat sat on the cat sat on the cat sat on the cat",
        "Ja, ja, ja, ja, ja, ja, ja, ja",
        "aaaaaaaaaaaa",
        "我们去我们去我们去我们去",
        "very good very good very good very good",
        "first a sentence. And then. And then. And then. And then.",
    ],
)
def test_repetitions_of_words_phrases_and_characters_are_loops(text):
    assert has_loop(text)


@pytest.mark.parametrize(
    "text",
    ["", "no, no, no!", "Contents ............ 12", "------------------", "a b a b", "ha ha ha", "1,000,000,000",
     "The dog sees the cat, and the cat sees the dog."],
)  # fmt: skip
def test_ordinary_text_has_no_repetition(text):
    assert not has_loop(text)


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="ab ", min_size=3, max_size=12).filter(str.strip), st.text(max_size=20), st.integers(4, 9))
def test_a_repetition_is_found_after_any_text(stretch, before, times):
    loop = " ".join([stretch] * times)
    period = len(" ".join(stretch.split())) + 1
    if period * times >= 16:
        assert has_loop(f"{before} {loop}")


def test_a_long_text_is_searched_quickly():
    start = time.process_time()
    has_loop("ab" * 3 + "".join(chr(97 + k * k % 26) for k in range(20_000)))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("Die Katze", "de", 1),
        ("Кошка", "de", 0),
        ("Кошка", "ru", 1),
        ("Cat", "ru", 0),
        ("猫在 IBM", "zh", 0.4),
        ("猫はここ", "ja", 1),
        ("猫はここ", "zh-Hant", 0.25),
        ("고양이", "ko", 1),
        ("γάτα", "el", 1),
        ("بِالْعَرَبِيَّةِ", "ar", 1),
        ("बिल्ली", "hi", 1),
        ("12:30 – 7 %", "ru", 1),
        ("", "ru", 1),
        ("Mačka", "sr-Latn", 1),
        ("Mačka", "sr", 0),
    ],
)
def test_script_shares_by_hand(text, language, share):
    assert script_share(text, language) == pytest.approx(share)


def test_edit_similarity_by_hand():
    # kitten -> sitting: three edits of seven characters.
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert edit_similarity("", "") == edit_similarity("a", "a") == 1
    assert edit_similarity("abc", "xyz") == 0


def test_length_ratios_by_hand():
    assert is_length_within("1234567890", " 12345 ", 2)
    assert not is_length_within("12345678901", "12345", 2)
    assert not is_length_within("12", "12345", 2)
