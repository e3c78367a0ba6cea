"""Settings of corpora and preference sets."""

import pytest
from support.corpora import corpus, section, write

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.config import CorpusConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_column": "a", "source_template": "{a}"}, "give either source_column or source_template"),
        ({"reference_columns": ["a"], "reference_templates": ["{a}"]}, "give either reference_columns or reference_t"),
        ({"hypothesis_columns": {"s": "a"}, "hypothesis_templates": {"s": "{a}"}}, "'s' has a column and a template"),
        ({"options": {"a": 1}}, "options are for custom code"),
    ],
)
def test_contradictory_settings_are_refused(folder, settings, message):
    with pytest.raises(UserError, match=message):
        section("c.jsonl", **settings)
    write("c.txt", "a")
    with pytest.raises(UserError, match="plain text has none"):
        section("c.txt", source_template="{a}")


def test_system_names_in_a_recipe_are_checked():
    with pytest.raises(UserError, match=r"system name '../a'"):
        load_section(CorpusConfig, {"source": "x", "hypotheses": {"../a": "f"}}, "r.toml")


def test_a_chosen_column_is_an_unknown_key_of_a_corpus(folder):
    with pytest.raises(UserError, match=r"test: unknown key 'chosen_column'.*; its keys are doc_column, hypotheses"):
        corpus("odd.jsonl", chosen_column="good")
