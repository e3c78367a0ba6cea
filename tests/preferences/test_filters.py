import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.data.text_checks import edit_similarity, has_loop, is_length_within, script_share
from mtcpo.preferences.filters import FilterConfig, Filters


def usable(source, texts, tgt_lang="en", **settings):
    """The texts that are kept, and what was left out for which reason."""
    segment = Segment("1", "de", tgt_lang, source)
    made = [Candidate(f"s{n}", text) for n, text in enumerate(texts)]
    kept, removed = Filters(FilterConfig(**settings)).apply(made, segment)
    return [candidate.text for candidate in kept], dict(removed)


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
def test_loops(text, loops):
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
def test_what_goes_round_in_circles(text):
    assert has_loop(text)


@pytest.mark.parametrize(
    "text",
    ["", "no, no, no!", "Contents ............ 12", "------------------", "a b a b", "ha ha ha", "1,000,000,000",
     "The dog sees the cat, and the cat sees the dog."],
)  # fmt: skip
def test_what_does_not(text):
    assert not has_loop(text)


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="ab ", min_size=3, max_size=12).filter(str.strip), st.text(max_size=20), st.integers(4, 9))
def test_what_repeats_is_found_wherever_it_stands(stretch, before, times):
    loop = " ".join([stretch] * times)
    period = len(" ".join(stretch.split())) + 1
    if period * times >= 16:
        assert has_loop(f"{before} {loop}")


def test_a_loop_in_the_source_is_no_fault():
    texts = ["ho ho ho ho ho ho", "Santa laughs."]
    assert usable("ha ha ha ha ha ha", texts, drop_repetitions=True) == (texts, {})
    assert usable("Er lacht.", texts, drop_repetitions=True) == (["Santa laughs."], {"repetition": 1})
    assert usable("Er lacht.", texts) == (texts, {})


def test_a_long_text_is_searched_in_time():
    import time

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
def test_worked_shares_of_scripts(text, language, share):
    assert script_share(text, language) == pytest.approx(share)


def test_wrong_script_is_left_out():
    texts = ["Кошка сидит.", "The cat sits.", "Кот по кличке Tom", "Tom Jerry"]
    kept, removed = usable("Die Katze sitzt.", texts, "ru", check_script=True)
    assert (kept, removed) == (["Кошка сидит.", "Кот по кличке Tom"], {"wrong_script": 2})


def test_worked_edit_similarity():
    # kitten -> sitting: three edits of seven characters.
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert edit_similarity("", "") == edit_similarity("a", "a") == 1
    assert edit_similarity("abc", "xyz") == 0


def test_pairs_that_hardly_differ():
    filters = Filters(FilterConfig(max_similarity=0.8))
    assert filters.pair_rejection("abcdefghij", "abcdefghiX") == "near_duplicate"  # 0.9
    assert filters.pair_rejection("abcdefghij", "abcdefghXY") == ""  # 0.8: the limit itself is allowed
    assert Filters(FilterConfig()).pair_rejection("abcdefghij", "abcdefghiX") == ""


def test_length_ratio():
    assert is_length_within("1234567890", " 12345 ", 2)
    assert not is_length_within("12345678901", "12345", 2)
    assert not is_length_within("12", "12345", 2)


def test_the_first_reason_counts():
    texts = ["", "Die Katze.", "x", "The cat.", "The cat. "]
    assert usable("Die Katze.", texts, max_source_length_ratio=3) == (
        ["The cat."],
        {"empty_text": 1, "copy_of_source": 1, "source_length_ratio": 1, "same_text": 1},
    )


def test_too_long_in_tokens_of_a_model(model_folder):
    from transformers import AutoTokenizer

    folder = str(model_folder("mt5"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["The house.", "The house is big and old and stands in the garden."]
    limit = len(tokenizer(text_target=texts[0])["input_ids"])
    config = {"max_tokens": limit, "tokenizer": folder}
    assert usable("Haus", texts, **config) == (texts[:1], {"too_long": 1})
    filters = Filters(FilterConfig(**config))
    assert filters.source_rejection(Segment("1", "de", "en", texts[1])) == "source_too_long"
    assert filters.source_rejection(Segment("1", "de", "en", texts[0])) == ""


def test_a_tokenizer_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer '.*none' cannot be loaded"):
        Filters(FilterConfig(max_tokens=9, tokenizer=str(tmp_path / "none")))


def test_wrong_language():
    pytest.importorskip("lingua")
    texts = [
        "The weather is fine today, and we will go for a walk.",
        "Das Wetter ist heute schön, und wir gehen spazieren.",
        "Il fait beau aujourd'hui et nous allons nous promener.",
        "Hund",
    ]
    kept, removed = usable("Das Wetter ist heute gut, wir gehen raus.", texts, check_language=True)
    # A single word is no evidence.
    assert (kept, removed) == ([texts[0], "Hund"], {"wrong_language": 2})
    assert usable("x", texts[:1], "de-AT", check_language=True) == ([], {"wrong_language": 1})


def test_a_language_that_is_not_known_to_the_identifier():
    pytest.importorskip("lingua")
    with pytest.raises(UserError, match="lingua does not know 'ceb'; leave it off"):
        usable("x", ["a text that is long enough to be judged"], "ceb", check_language=True)


def test_without_the_identifier_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lingua", None)
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not hasattr(finder, "lingua")])
    with pytest.raises(UserError, match=r"pip install 'mtcpo\[langid\]'"):
        Filters(FilterConfig(check_language=True))
