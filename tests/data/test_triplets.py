"""Reading preference sets."""

import csv

import pytest
from support.corpora import triplets, write

from mtcpo.core.errors import UserError
from mtcpo.data.config import PreferenceSetConfig
from mtcpo.data.corpora import Drops
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Segment, Triplet, segment_to_json, triplet_to_json
from mtcpo.data.triplets import read_triplets, triplets_to_trl


def test_our_triplets_are_read_and_unusable_ones_are_counted(folder):
    good = Triplet("1", "de", "en", "Ja.", "Yes.", "No.", "a", "b", {"chrf": 2.0}, {"chrf": 1.0}, 1.0)
    rows = [good, *(Triplet("2", "de", "en", *texts) for texts in [("", "a", "b"), ("a", " ", "b"), ("a", "b", "b")])]
    write_row_file(folder / "p.jsonl", map(triplet_to_json, rows))
    drops = Drops()
    assert list(read_triplets("p.jsonl", drops)) == [good]
    assert drops == {"empty_text": 2, "identical": 1}


def test_trl_sets_are_read_and_written(folder):
    rows = [{"prompt": "Translate: Ja.\n", "chosen": "Yes.", "rejected": "No."}]
    write_row_file(folder / "trl.parquet", rows)
    triplets = list(read_triplets("trl.parquet"))
    assert triplets[0].id == "trl.parquet:1"
    assert list(triplets_to_trl(triplets)) == rows
    ours = [Triplet("1", "de", "en", "Ja.", "Yes.", "No.")]
    assert list(triplets_to_trl(ours)) == [{"prompt": "Ja.", "chosen": "Yes.", "rejected": "No."}]


def test_columns_of_preferences_may_have_any_name(folder):
    row = {"prompt": "Ja {x}.", "good": "Yes", "bad": "No", "mark": 3, "src_lang": "de", "chosen": 1, "tgt_lang": None}
    write_row_file(folder / "odd.jsonl", [row, row | {"bad": "Yes"}, row | {"good": " "}])
    columns = {"source_column": "prompt", "chosen_template": "{good}. {mark}", "rejected_column": "bad"}
    drops = Drops()
    [first, *rest] = read_triplets(PreferenceSetConfig(source="odd.jsonl", tgt_lang="en", **columns), drops)
    assert first == Triplet("odd.jsonl:1", "de", "en", "Ja {x}.", "Yes. 3", "No")
    assert len(rest) == 2
    plain = {"source_column": "prompt", "chosen_column": "good", "rejected_column": "bad"}
    assert len(list(read_triplets(PreferenceSetConfig(source="odd.jsonl", **plain), drops))) == 1
    assert drops == {"identical": 1, "empty_text": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"chosen_column": "goood"},
            r"odd\.jsonl:1: no column 'goood' \(did you mean 'good'\?\); the row has bad, good, source; set",
        ),
        ({"chosen_template": "{goood}"}, "odd.jsonl:1: no column 'goood'"),
        ({"chosen_column": "good", "rejected_column": "bad", "src_lang": "xx"}, "xx"),
        ({"reference_columns": ("good",)}, "reference_columns\n  Extra inputs are not permitted"),
        ({"chosen_column": "good", "chosen_template": "{good}"}, "give either chosen_column or chosen_template"),
    ],
)
def test_wrong_columns_of_preferences(folder, settings, message):
    write_row_file(folder / "odd.jsonl", [{"source": "Ja.", "good": "Yes", "bad": "No"}])
    with pytest.raises((UserError, ValueError), match=message):
        list(read_triplets(PreferenceSetConfig(source="odd.jsonl", **settings)))


def test_a_preference_set_in_another_language_than_configured_is_refused(folder):
    write_row_file(folder / "p.jsonl", [triplet_to_json(Triplet("1", "de", "en", "Ja.", "Yes.", "No."))])
    with pytest.raises(UserError, match=r"p\.jsonl:1: the triplet's language is 'en', not 'fr' as given"):
        list(read_triplets(PreferenceSetConfig(source="p.jsonl", src_lang="de", tgt_lang="fr")))


def test_candidates_are_not_accepted_as_triplets(folder):
    write_row_file(folder / "c.jsonl", [segment_to_json(Segment("1", "de", "en", "Ja."))])
    with pytest.raises(UserError, match=r"choose pairs first: mtcpo build-prefs .*c\.jsonl"):
        list(read_triplets("c.jsonl"))
    write("e.jsonl")
    with pytest.raises(UserError, match="at least one triplet"):
        list(read_triplets("e.jsonl"))


def test_a_row_with_source_chosen_and_rejected_has_no_prompt(folder):
    row = {"source": "Ja.", "chosen": "Yes, it is.", "rejected": "Yes, it was."}
    with open("t.csv", "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
        csv.writer(file).writerows([row.keys(), row.values()])
    write_row_file(folder / "own.jsonl", [row | {"src_lang": "de", "tgt_lang": "en"}])
    [triplet] = triplets("t.csv")
    assert triplet == Triplet("t.csv:2", "de", "en", "Ja.", "Yes, it is.", "Yes, it was.")
    [triplet] = read_triplets("t.csv")
    assert (triplet.src_lang, triplet.tgt_lang, triplet.prompt) == ("und", "und", None)
    assert next(read_triplets("own.jsonl")).id == "own.jsonl:1"


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_skip_and_take_apply_to_triplets(folder, suffix):
    name = f"p.{suffix}"
    write_row_file(folder / name, [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(5)])
    assert [t.prompt for t in triplets(name, skip=1, take=2)] == ["p1", "p2"]
