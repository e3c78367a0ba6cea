import pytest

from mtcpo.core.errors import UserError
from mtcpo.data.languages import check_language, english_name, macro_language, same_language


@pytest.mark.parametrize(
    ("tag", "normal"),
    [
        ("de", "de"),
        ("deu", "de"),
        ("deu_Latn", "de"),
        ("zho_Hans", "zh-Hans"),
        ("pt-br", "pt-BR"),
        ("sr-Cyrl", "sr-Cyrl"),
        ("iw", "he"),
        ("und", "und"),
    ],
)
def test_every_spelling_of_a_language_has_the_same_code(tag, normal):
    assert check_language(tag) == normal
    assert check_language(normal) == normal


@pytest.mark.parametrize(
    ("tag", "hint"), [("german", "'de'"), ("Chinese", "'zh'"), ("dex", "did you mean 'de'"), ("", "''")]
)
def test_an_unknown_language_is_refused_with_the_nearest(tag, hint):
    with pytest.raises(UserError, match="unknown language") as caught:
        check_language(tag)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_english_names_are_as_prompts_write_them():
    assert [english_name(tag) for tag in ("de", "zh", "is", "pt-BR")] == [
        "German",
        "Chinese",
        "Icelandic",
        "Portuguese (Brazil)",
    ]


def test_macro_languages_are_bare_codes():
    assert [macro_language(tag) for tag in ("zh-Hans", "cmn", "yue", "ja-JP", "de-AT")] == [
        "zh",
        "zh",
        "zh",
        "ja",
        "de",
    ]


def test_the_same_language_is_recognized_in_any_spelling():
    assert same_language("deu_Latn", "de")
    assert not same_language("sr-Cyrl", "sr-Latn")
