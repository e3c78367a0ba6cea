import time

import pytest

from mtcpo.errors import UserError
from mtcpo.families import FAMILIES, family_of, language_token, some_language

BY_NAME = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize(
    ("model_type", "tokens", "name"),
    [
        ("t5", [], "t5"),
        ("t5", ["<2de>"], "madlad"),
        ("mt5", [], "mt5"),
        ("umt5", [], "mt5"),
        ("m2m_100", ["__de__"], "m2m100"),
        ("m2m_100", ["eng_Latn"], "nllb"),
        ("marian", ["▁the"], "marian"),
        ("marian", [">>deu<<"], "marian-multilingual"),
        ("mbart", ["de_DE"], "mbart"),
        ("llama", [], "decoder-only"),
        ("mixtral", [], "decoder-only"),
    ],
)
def test_family_by_type_and_tokens(model_type, tokens, name):
    assert family_of(model_type, tokens).name == name


def test_undeclared_type_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"no family .* 'mt6' \(did you mean 'mt5'\?\); known types: .*umt5"):
        family_of("mt6", [])


def test_each_type_is_declared_once_and_t5s_know_no_half_precision():
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(types) == len(set(types))
    assert {family.name for family in FAMILIES if not family.float16} == {"t5", "mt5", "madlad"}


@pytest.mark.parametrize(
    ("name", "tag", "token"),
    [
        ("nllb", "de", "deu_Latn"),
        ("nllb", "zh", "zho_Hans"),
        ("nllb", "zh-Hant", "zho_Hant"),
        ("nllb", "ar", "arb_Arab"),
        ("nllb", "no", "nob_Latn"),
        ("nllb", "fa", "pes_Arab"),
        ("nllb", "sr", "srp_Cyrl"),
        ("m2m100", "de", "__de__"),
        ("m2m100", "pt-BR", "__pt__"),
        ("mbart", "de", "de_DE"),
        ("mbart", "en", "en_XX"),
        ("mbart", "zh", "zh_CN"),
        ("marian-multilingual", "de", ">>deu<<"),
        ("marian-multilingual", "pt-BR", ">>por<<"),
        ("madlad", "de", "<2de>"),
        ("madlad", "zh-Hant", "<2zh_Hant>"),
    ],
)
def test_language_tokens(name, tag, token):
    # mBART has en_XX and no en_US, as its checkpoints have.
    known = {token, "en_XX", "▁the"}
    assert language_token(BY_NAME[name], tag, known) == token


def test_families_without_language_tokens():
    assert language_token(BY_NAME["mt5"], "de", []) == ""


def test_missing_language_names_what_was_tried_and_the_nearest():
    with pytest.raises(
        UserError, match=r"no token for language 'nds' \(tried nds_Latn\) \(did you mean 'nld_Latn'\?\)"
    ):
        language_token(BY_NAME["nllb"], "nds", {"nld_Latn", "tam_Taml", "nds_Latin-ish word"})
    with pytest.raises(UserError, match=r"nllb family needs to know its languages; give --src-lang"):
        language_token(BY_NAME["nllb"], "und", {"nld_Latn"})


def test_missing_language_is_told_at_once_even_with_a_large_vocabulary():
    vocabulary = {f"▁word{n}": n for n in range(250_000)} | {"nld_Latn": 250_000}
    start = time.perf_counter()
    with pytest.raises(UserError, match="nld_Latn"):
        language_token(BY_NAME["nllb"], "nds", vocabulary)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("name", "token", "tag"),
    [
        ("nllb", "wol_Latn", "wol_Latn"),
        ("m2m100", "__wo__", "wo"),
        ("marian-multilingual", ">>ukr<<", "ukr"),
        ("madlad", "<2uk>", "uk"),
        ("mbart", "gu_IN", "gu_IN"),
    ],
)
def test_some_language_of_a_tokenizer(name, token, tag):
    found = some_language(BY_NAME[name], ["▁the", "x_y", "__", token])
    assert found == tag
    assert language_token(BY_NAME[name], found, [token]) == token


def test_a_tokenizer_without_any_language():
    with pytest.raises(UserError, match="no language token such as a_a"):
        some_language(BY_NAME["nllb"], ["▁the"])
