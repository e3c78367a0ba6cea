import importlib
import re
import time

import pytest
from support.families import TINY_MODELS

from mtcpo.core.errors import UserError
from mtcpo.data.languages import check_language
from mtcpo.models.families import FAMILIES, Family, family_of
from mtcpo.models.tokenizers import any_language, language_token

BY_NAME = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize(
    ("model_type", "tokens", "name"),
    [
        ("t5", [], "t5"),
        ("t5", ["<2de>"], "madlad"),
        ("t5", ["\x00", "a"], "byt5"),
        ("mt5", [], "mt5"),
        ("umt5", [], "umt5"),
        ("m2m_100", ["__de__"], "m2m100"),
        ("m2m_100", ["eng_Latn"], "nllb"),
        ("marian", ["▁the"], "marian"),
        ("marian", [">>deu<<"], "marian-multilingual"),
        ("marian", ["x>>deu<<"], "marian"),
        ("mbart", ["de_DE"], "mbart-cc25"),
        ("mbart", ["de_DE", "sl_SI"], "mbart-50"),
        ("llama", [], "llama"),
        ("qwen3", [], "qwen"),
        ("gemma3_text", [], "gemma"),
        ("mixtral", [], "mistral"),
    ],
)
def test_family_by_type_and_tokens(model_type, tokens, name):
    assert family_of(model_type, tokens, "encoder-decoder").name == name


def declared_in(message):
    """The family that a message tells the user to write."""
    entry = re.search(r"`FAMILY = (Family\(.*?)`", message)
    return eval(entry[1], {"Family": Family})


def test_an_undeclared_type_is_named_with_the_nearest_and_the_family_to_write():
    with pytest.raises(UserError, match=r"no family .* 'mt6' \(did you mean 'mt5'\?\); known types: .*umt5") as caught:
        family_of("mt6", [], "encoder-decoder")
    assert declared_in(str(caught.value)) == Family("mt6", ("mt6",), "encoder-decoder")
    assert str(caught.value).endswith("pass --family python:own:FAMILY --allow-code")
    with pytest.raises(UserError) as caught:
        family_of("bloom", [], "decoder-only")
    assert declared_in(str(caught.value)) == Family("bloom", ("bloom",), "decoder-only", prompt=None)


def test_families_that_share_a_model_type_are_distinguished():
    for model_type in {model_type for family in FAMILIES for model_type in family.model_types}:
        *first, last = [family for family in FAMILIES if model_type in family.model_types]
        assert all(family.marker for family in first), "an entry that is never reached"
        assert last.marker is None, "a model that fits no entry though its type is declared"
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert not family.target_code or family.language_code


def test_every_family_has_a_tiny_model_and_float16_only_if_supported():
    assert {tiny.family for tiny in TINY_MODELS.values()} == BY_NAME.keys()
    for tiny in TINY_MODELS.values():
        assert BY_NAME[tiny.family].float16 == tiny.float16


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
        ("nllb", "fa-AF", "prs_Arab"),
        ("nllb", "fil", "tgl_Latn"),
        ("nllb", "pt-BR", "por_Latn"),
        ("nllb", "sr-Cyrl", "srp_Cyrl"),
        ("nllb", "zh-TW", "zho_Hant"),
        ("nllb", "yue", "yue_Hant"),
        ("m2m100", "zh-Hans", "__zh__"),
        ("m2m100", "nso", "__ns__"),
        ("m2m100", "sr-Latn", "__sr__"),
        ("m2m100", "nb", "__no__"),
        ("mbart-50", "de", "de_DE"),
        ("mbart-50", "en", "en_XX"),
        ("mbart-cc25", "zh", "zh_CN"),
        ("mbart-50", "zh-Hant", "zh_CN"),
        ("mbart-50", "pt-BR", "pt_XX"),
        ("marian-multilingual", "de", ">>deu<<"),
        ("marian-multilingual", "pt-BR", ">>por<<"),
        ("marian-multilingual", "pt-BR", ">>pt_BR<<"),
        ("marian-multilingual", "sr-Latn", ">>srp_Latn<<"),
        ("marian-multilingual", "zh-Hant", ">>cmn_Hant<<"),
        ("madlad", "de", "<2de>"),
        ("madlad", "sr-Latn", "<2sr_Latn>"),
        ("madlad", "pt-BR", "<2pt>"),
        ("madlad", "he", "<2iw>"),
        ("madlad", "zh-Hant", "<2zh_Hant>"),
    ],
)
def test_language_tokens(name, tag, token):
    # mBART has en_XX and no en_US, as its checkpoints have.
    known = {token, "en_XX", "▁the"}
    assert language_token(BY_NAME[name], tag, known) == token


@pytest.mark.parametrize(
    ("tag", "tokens", "token"),
    [
        ("sr-Latn", {">>srp_Cyrl<<", ">>srp_Latn<<"}, ">>srp_Latn<<"),
        ("sr", {">>srp_Cyrl<<", ">>srp_Latn<<"}, ">>srp_Cyrl<<"),
        ("sr", {">>srp_Cyrl<<", ">>sr<<"}, ">>sr<<"),
        ("pt-BR", {">>pt_BR<<", ">>por<<"}, ">>pt_BR<<"),
        ("pt", {">>pt_BR<<", ">>por<<"}, ">>por<<"),
        ("zh-Hans", {">>cmn_Hant<<", ">>cmn_Hans<<", ">>zho<<"}, ">>cmn_Hans<<"),
    ],
)
def test_the_best_of_several_language_tokens_is_chosen(tag, tokens, token):
    assert language_token(BY_NAME["marian-multilingual"], tag, tokens) == token


def test_a_token_of_another_script_is_not_taken():
    with pytest.raises(
        UserError, match=r"no token for language 'sr-Latn' \(tried srp_Latn\); the nearest that it has is 'srp_Cyrl'"
    ):
        language_token(BY_NAME["nllb"], "sr-Latn", {"srp_Cyrl", "deu_Latn"})
    with pytest.raises(UserError, match=r"no token for language 'sr-Latn' .*; the nearest that it has is 'srp_Cyrl'"):
        language_token(BY_NAME["marian-multilingual"], "sr-Latn", {">>srp_Cyrl<<", ">>deu<<"})


def codes_of(name):
    """The language tokens that a family's tokenizer class knows, each with the language that it is for."""
    module = {"nllb": "nllb", "m2m100": "m2m_100", "mbart-50": "mbart50", "mbart-cc25": "mbart"}[name]
    path = f"transformers.models.{module}.tokenization_{module}"
    codes = importlib.import_module(path).FAIRSEQ_LANGUAGE_CODES
    if name == "m2m100":
        # `ns` is what M2M100 calls Northern Sotho, and no language of BCP-47.
        return {f"__{code}__": "nso" if code == "ns" else code for code in codes["m2m100"]}
    # XX is mBART's for no region in particular; Tagalog goes by another name in BCP-47, and there it is in the way.
    return {code: "tl" if code == "tl_XX" else code for code in codes}


@pytest.mark.parametrize(("name", "count"), [("nllb", 202), ("m2m100", 100), ("mbart-50", 52), ("mbart-cc25", 25)])
def test_every_code_of_a_tokenizer_is_found_by_its_bcp47_tag(name, count):
    tags = codes_of(name)
    assert len(tags) == count
    wrong = {}
    for code, tag in tags.items():
        found = language_token(BY_NAME[name], check_language(tag), tags)
        if found != code:
            wrong[code] = found
    assert not wrong


def test_no_language_is_suggested_if_none_is_similar():
    with pytest.raises(UserError) as caught:
        language_token(BY_NAME["nllb"], "nds", {"tam_Taml"})
    assert str(caught.value).endswith("(tried nds_Latn)")


def test_families_without_language_tokens():
    assert language_token(BY_NAME["mt5"], "de", []) == ""


def test_a_missing_language_names_the_tokens_tried_and_the_nearest():
    with pytest.raises(
        UserError, match=r"no token for language 'nds' \(tried nds_Latn\); the nearest that it has is 'deu_Latn'"
    ):
        language_token(BY_NAME["nllb"], "nds", {"deu_Latn", "tam_Taml", "nds_Latin-ish word", "x_y"})
    with pytest.raises(UserError, match=r"'fo' .*\(tried __fo__\); the nearest that it has is 'da'"):
        language_token(BY_NAME["m2m100"], "fo", {"__fr__", "__da__", "__de__", "__x__"})
    with pytest.raises(UserError, match=r"nllb family must know the language pair; give --src-lang"):
        language_token(BY_NAME["nllb"], "und", {"nld_Latn"})


def test_a_missing_language_is_reported_quickly_with_a_large_vocabulary():
    vocabulary = {f"▁word{n}": n for n in range(250_000)} | {"deu_Latn": 250_000}
    start = time.process_time()
    with pytest.raises(UserError, match="deu_Latn"):
        language_token(BY_NAME["nllb"], "nds", vocabulary)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("name", "token", "tag"),
    [
        ("nllb", "wol_Latn", "wol_Latn"),
        ("m2m100", "__wo__", "wo"),
        ("marian-multilingual", ">>ukr<<", "ukr"),
        ("madlad", "<2uk>", "uk"),
        ("mbart-50", "gu_IN", "gu_IN"),
    ],
)
def test_any_language_of_a_tokenizer(name, token, tag):
    found = any_language(BY_NAME[name], ["▁the", "x_y", "__", token])
    assert found == tag
    assert language_token(BY_NAME[name], found, [token]) == token


def test_a_tokenizer_without_language_tokens_is_refused():
    with pytest.raises(UserError, match="this nllb model has no language token such as deu_Latn"):
        any_language(BY_NAME["nllb"], ["▁the"])
