import sys

import pytest

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.preferences.filters import FilterConfig, Filters


def kept_and_removed(source, texts, tgt_lang="en", **settings):
    """The texts that are kept, and what was left out for which reason."""
    segment = Segment("1", "de", tgt_lang, source)
    made = [Candidate(f"s{n}", text) for n, text in enumerate(texts)]
    kept, removed = Filters(FilterConfig(**settings)).apply(made, segment)
    return [candidate.text for candidate in kept], dict(removed)


def test_a_repetition_is_accepted_if_the_source_has_one():
    texts = ["ho ho ho ho ho ho", "Santa laughs."]
    assert kept_and_removed("ha ha ha ha ha ha", texts, drop_repetitions=True) == (texts, {})
    assert kept_and_removed("Er lacht.", texts, drop_repetitions=True) == (["Santa laughs."], {"repetition": 1})
    assert kept_and_removed("Er lacht.", texts) == (texts, {})


def test_candidates_in_another_script_are_left_out():
    texts = ["Кошка сидит.", "The cat sits.", "Кот по кличке Tom", "Tom Jerry"]
    kept, removed = kept_and_removed("Die Katze sitzt.", texts, "ru", check_script=True)
    assert (kept, removed) == (["Кошка сидит.", "Кот по кличке Tom"], {"wrong_script": 2})


def test_pairs_more_similar_than_the_limit_are_rejected():
    filters = Filters(FilterConfig(max_similarity=0.8))
    assert filters.pair_rejection("abcdefghij", "abcdefghiX") == "near_duplicate"  # 0.9
    assert filters.pair_rejection("abcdefghij", "abcdefghXY") == ""  # 0.8: the limit itself is allowed
    assert Filters(FilterConfig()).pair_rejection("abcdefghij", "abcdefghiX") == ""


def test_a_limit_of_zero_is_a_limit():
    filters = Filters(FilterConfig(max_length_difference=0, max_similarity=None))
    assert filters.pair_rejection("abc", "abcd") == "length_difference"
    assert filters.pair_rejection("abc", "xyz") == ""
    filters = Filters(FilterConfig(max_similarity=0))
    assert filters.pair_rejection("abc", "abd") == "near_duplicate"
    assert filters.pair_rejection("abc", "xyz") == ""


def test_a_candidate_counts_under_its_first_reason():
    texts = ["", "Die Katze.", "x", "The cat.", "The cat. "]
    assert kept_and_removed("Die Katze.", texts, max_source_length_ratio=3) == (
        ["The cat."],
        {"empty_text": 1, "copy_of_source": 1, "source_length_ratio": 1, "same_text": 1},
    )


def test_texts_with_too_many_tokens_are_left_out(model_folder):
    from transformers import AutoTokenizer

    folder = str(model_folder("mt5"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["The house.", "The house is big and old and stands in the garden."]
    limit = len(tokenizer(text_target=texts[0])["input_ids"])
    config = {"max_tokens": limit, "tokenizer": folder}
    assert kept_and_removed("Haus", texts, **config) == (texts[:1], {"too_long": 1})
    filters = Filters(FilterConfig(**config))
    assert filters.source_rejection(Segment("1", "de", "en", texts[1])) == "source_too_long"
    assert filters.source_rejection(Segment("1", "de", "en", texts[0])) == ""


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer '.*none' cannot be loaded"):
        Filters(FilterConfig(max_tokens=9, tokenizer=str(tmp_path / "none")))


def test_off_target_candidates_are_left_out():
    pytest.importorskip("lingua")
    texts = [
        "The weather is fine today, and we will go for a walk.",
        "Das Wetter ist heute schön, und wir gehen spazieren.",
        "Il fait beau aujourd'hui et nous allons nous promener.",
        "Hund",
    ]
    kept, removed = kept_and_removed("Das Wetter ist heute gut, wir gehen raus.", texts, check_language=True)
    # A single word is no evidence.
    assert (kept, removed) == ([texts[0], "Hund"], {"wrong_language": 2})
    assert kept_and_removed("x", texts[:1], "de-AT", check_language=True) == ([], {"wrong_language": 1})


def test_a_language_that_lingua_does_not_know_is_named():
    pytest.importorskip("lingua")
    with pytest.raises(UserError, match="lingua does not know 'ceb'; leave it off"):
        kept_and_removed("x", ["a text that is long enough to be judged"], "ceb", check_language=True)


def test_without_lingua_the_message_has_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "lingua", None)
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not hasattr(finder, "lingua")])
    with pytest.raises(UserError, match=r"pip install 'mtcpo\[langid\]'"):
        Filters(FilterConfig(check_language=True))
