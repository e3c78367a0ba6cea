import pytest

from mtcpo.core.errors import UserError
from mtcpo.data.records import Triplet
from mtcpo.data.row_layouts import preference_triplet, translation_segments, trl_row


def alma_row(**change):
    fields = {
        "language_pair": "de-en",
        "de": "Guten Tag.",
        "en": "Good day.",
        "alma_de": "Tag.",
        "gpt4_de": "Guten Morgen.",
        "alma_en": "Day.",
        "gpt4_en": "Hello.",
        "alma_en_kiwi": 0.7,
        "alma_en_kiwi_xcomet": 0.75,
        "gpt4_en_kiwi": 0.9,
        "gpt4_en_kiwi_xcomet": 0.95,
        "ref_en_kiwi": 0.8,
        "ref_en_kiwi_xcomet": 0.85,
        "alma_de_kiwi": 0.1,
        "gpt4_de_kiwi": 0.2,
        "Delta": 0.0,
        "required_directions": "",
    }
    return {"translation": fields | change}


def test_a_plain_translation_row_is_read_in_the_given_direction():
    row = {"translation": {"de": "Ja.", "en": "Yes."}}
    [segment] = translation_segments(row, "de", "en", "7", "f:7")
    assert (segment.id, segment.src_lang, segment.tgt_lang) == ("7", "de", "en")
    assert (segment.source, segment.references) == ("Ja.", ("Yes.",))
    [back] = translation_segments(row, "en", "de", "7", "f:7")
    assert (back.source, back.references) == ("Yes.", ("Ja.",))


def test_language_codes_of_a_row_match_in_any_spelling():
    row = {"translation": {"deu_Latn": "Ja.", "zho_Hans": "是。"}}
    [segment] = translation_segments(row, "de", "zh-Hans", "1", "f:1")
    assert (segment.src_lang, segment.tgt_lang, segment.source) == ("de", "zh-Hans", "Ja.")


@pytest.mark.parametrize(
    ("row", "languages", "message"),
    [
        (
            {"translation": {"de": "a", "en": "b"}},
            (None, None),
            "does not say which language is the source; give src_lang and tgt_lang",
        ),
        ({"translation": {"de": "a", "en": "b"}}, ("fr", "en"), "no translation into 'fr'; the row has de, en"),
        ({"translation": {"de": None, "en": "b"}}, ("de", "en"), "field 'de' must be a string"),
        ({"translation": "text"}, ("de", "en"), "must map languages to texts"),
    ],
)
def test_wrong_translation_rows_are_refused(row, languages, message):
    with pytest.raises(UserError, match=message):
        translation_segments(row, *languages, "1", "f:1")


def test_an_alma_row_is_read_in_both_directions():
    forth, back = translation_segments(alma_row(), None, None, "1", "f:1")
    assert (forth.id, forth.source, forth.references) == ("1:de-en", "Guten Tag.", ("Good day.",))
    assert {c.system: c.text for c in forth.candidates} == {"alma": "Day.", "gpt4": "Hello.", "reference": "Good day."}
    assert {c.system: dict(c.scores) for c in forth.candidates} == {
        "alma": {"kiwi": 0.7, "kiwi_xcomet": 0.75},
        "gpt4": {"kiwi": 0.9, "kiwi_xcomet": 0.95},
        "reference": {"kiwi": 0.8, "kiwi_xcomet": 0.85},
    }
    assert (back.id, back.tgt_lang) == ("1:en-de", "de")
    assert {c.system: c.text for c in back.candidates} == {"alma": "Tag.", "gpt4": "Guten Morgen."}


def test_required_directions_and_given_languages_restrict_a_row():
    directions = lambda row, *wanted: [s.id for s in translation_segments(row, *wanted, "1", "f:1")]  # noqa: E731
    assert directions(alma_row(required_directions="en-de"), None, None) == ["1:en-de"]
    assert directions(alma_row(), "de", None) == ["1:de-en"]
    assert directions(alma_row(required_directions="en-de"), "de", "en") == []


@pytest.mark.parametrize(("delta", "human"), [(2.0, {"gpt4": 2.0, "alma": 0.0}), (-1.5, {"gpt4": -1.5, "alma": 0.0})])
def test_a_positive_delta_is_a_verdict_for_gpt4(delta, human):
    [segment] = translation_segments(alma_row(Delta=delta, required_directions="de-en"), None, None, "1", "f:1")
    assert {c.system: c.scores["human"] for c in segment.candidates if "human" in c.scores} == human


def test_a_delta_without_its_systems_is_refused():
    row = alma_row(Delta=1.0)
    del row["translation"]["gpt4_en"]
    with pytest.raises(UserError, match="Delta compares the systems gpt4 and alma; the row has alma"):
        translation_segments(row, "de", "en", "1", "f:1")


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def test_a_standard_preference_row_keeps_its_prompt():
    row = {"prompt": "Translate: Ja.", "chosen": " Yes.", "rejected": " No."}
    triplet = preference_triplet(row, "3", "f:3")
    assert (triplet.prompt, triplet.chosen, triplet.rejected) == ("Translate: Ja.", " Yes.", " No.")
    assert (triplet.src_lang, triplet.tgt_lang, triplet.id) == ("und", "und", "3")


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("German: Ja.\nEnglish: Yes.", "German: Ja.\nEnglish: Yesterday.", "German: Ja.\nEnglish:"),
        ("The sky", "The sky is", "The"),
        ("blue", "black", ""),
    ],
)
def test_implicit_prompt_ends_between_words(chosen, rejected, prompt):
    triplet = preference_triplet({"chosen": chosen, "rejected": rejected}, "1", "f:1")
    assert triplet.prompt == prompt
    assert (prompt + triplet.chosen, prompt + triplet.rejected) == (chosen, rejected)


def test_conversations_are_read_with_and_without_a_prompt():
    prompt = [{"role": "system", "content": "Be brief."}, user("Ja.")]
    explicit = {"prompt": prompt, "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]}
    implicit = {"chosen": [*prompt, assistant("Yes.")], "rejected": [*prompt, assistant("No.")]}
    triplet = preference_triplet(explicit, "1", "f:1")
    assert (triplet.source, triplet.chosen, triplet.rejected) == ("Ja.", "Yes.", "No.")
    assert triplet.prompt == tuple(prompt)
    assert preference_triplet(implicit, "1", "f:1") == triplet


def test_an_xalma_row_is_read():
    row = {"source": "Ja.", "chosen": "Yes.", "reject": "No.", "directions": "de-en"}
    triplet = preference_triplet(row, "1", "f:1")
    assert (triplet.src_lang, triplet.tgt_lang, triplet.source) == ("de", "en", "Ja.")
    assert (triplet.chosen, triplet.rejected, triplet.prompt) == ("Yes.", "No.", None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a"}, "needs 'chosen' and 'rejected'; the row has chosen"),
        ({"prompt": [user("a")], "chosen": "a", "rejected": "b"}, "'prompt' must be a string if"),
        (
            {"prompt": "a", "chosen": [assistant("a")], "rejected": [assistant("b")]},
            "'prompt' must be a string or a list",
        ),
        ({"chosen": "a", "rejected": [assistant("b")]}, "'chosen' must be a string or a list of messages, not str"),
        ({"chosen": [{"role": "user"}], "rejected": []}, "'chosen': a message needs 'role' and 'content'"),
        (
            {"prompt": [user("a")], "chosen": [assistant("b"), user("c")], "rejected": [assistant("d")]},
            "'chosen' must be one message after the prompt, not 2",
        ),
    ],
)
def test_wrong_preference_rows_are_refused(row, message):
    with pytest.raises(UserError, match=message):
        preference_triplet(row, "1", "f:1")


def test_triplets_are_written_as_standard_trl_rows():
    triplet = Triplet("1", "de", "zh", "Was {tgt_name} heißt", "a", "b")
    template = "Translate from {src_name} to {tgt_name}:\n{source}\n"
    assert trl_row(triplet, template) == {
        "prompt": "Translate from German to Chinese:\nWas {tgt_name} heißt\n",
        "chosen": "a",
        "rejected": "b",
    }
    assert trl_row(Triplet("1", "und", "und", "x", "a", "b", prompt="own"), template)["prompt"] == "own"
    assert trl_row(Triplet("1", "und", "und", "x", "a", "b", prompt=(user("own"),)), template)["prompt"] == "own"
    with pytest.raises(UserError, match="triplet 1: TRL's standard format has no prompts of several messages"):
        trl_row(Triplet("1", "und", "und", "x", "a", "b", prompt=(user("own"), assistant("x"))), template)


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "Say it. Yes, it is.", "rejected": "Say it. No."},
        {"chosen": [user("Ja."), assistant("Yes.")], "rejected": [user("Ja."), assistant("No.")]},
        {"chosen": [user("a"), assistant("b"), user("c"), assistant("d")],
         "rejected": [user("a"), assistant("b"), user("c"), assistant("e")]},
    ],
)  # fmt: skip
def test_implicit_prompts_equal_those_of_trl(row):
    theirs = pytest.importorskip("trl.data_utils").extract_prompt(row)
    ours, conversation = preference_triplet(row, "1", "f:1"), isinstance(row["chosen"], list)
    assert (list(ours.prompt) if conversation else ours.prompt) == theirs["prompt"]
    for text, key in ((ours.chosen, "chosen"), (ours.rejected, "rejected")):
        assert text == (theirs[key][0]["content"] if conversation else theirs[key])


def test_implicit_prompts_end_between_words_unlike_in_trl():
    row = {"chosen": "It is black.", "rejected": "It is blue."}
    triplet = preference_triplet(row, "1", "f:1")
    assert (triplet.prompt, triplet.chosen) == ("It is", " black.")
    trl = pytest.importorskip("trl.data_utils")
    assert trl.extract_prompt(row)["prompt"] == "It is bl"
