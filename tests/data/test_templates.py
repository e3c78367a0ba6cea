"""Templates over columns."""

import pytest
from support.corpora import corpus, write_compressed

from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Candidate
from mtcpo.data.templates import column_text


def test_templates_join_columns(folder):
    rows = [{"title": "A {x}", "body": "b", "titel": "Ä", "text": "c", "n": 7, "src_lang": "xx", "tgt_lang": "yy"}]
    write_row_file(folder / "c.jsonl", rows)
    settings = {
        "source_template": "{n}: {title}. {{{body}}}",
        "reference_templates": ["{titel}. {text}", "{text}"],
        "hypothesis_templates": {"one": "{titel}!"},
    }
    [segment] = corpus("c.jsonl", **settings)
    assert segment.source == "7: A {x}. {b}"
    assert segment.references == ("Ä. c", "c")
    assert segment.candidates == (Candidate("one", "Ä!"),)
    assert (segment.src_lang, segment.tgt_lang) == ("de", "en")


@pytest.mark.parametrize("name", ["c.csv", "c.tsv.gz", "c.jsonl.zst", "c.parquet", "saved"])
def test_templates_work_in_every_format_of_rows(folder, name):
    rows = [{"title": "A", "body": "b", "de": "Ab"}, {"title": "C", "body": "d", "de": "Cd"}]
    if name == "saved":
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(name)
    elif name[:4] in ("c.cs", "c.ts"):
        mark = "," if "csv" in name else "\t"
        write_compressed(
            folder / name, "".join(mark.join(line) + "\n" for line in [rows[0].keys(), *(r.values() for r in rows)])
        )
    else:
        write_row_file(folder / name, rows)
    segments = corpus(name, source_template="{title}. {body}", reference_columns=["de"], take=1)
    assert [(segment.source, segment.references) for segment in segments] == [("A. b", ("Ab",))]


def test_templates_use_the_other_columns_of_a_translation_row(folder):
    write_row_file(folder / "c.jsonl", [{"translation": {"de": "x", "en": "y"}, "text": "t"}])
    assert corpus("c.jsonl", source_template="<{text}>")[0].source == "<t>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", r"c\.jsonl:1: no column 'titel' \(did you mean 'title'\?\); the row has body, none, title"),
        ("{none}", r"c\.jsonl:1: column 'none' is NoneType, but a template needs text or a number"),
        ("{title", r"template '\{title': expected '\}' before end of string; write \{\{ or \}\} for a brace"),
        ("{title!r}", "write the name of a column in the braces, and nothing else"),
        ("{title:>9}", "write the name of a column in the braces, and nothing else"),
        ("{}", "write the name of a column in the braces, and nothing else"),
        ("title", r"it names no column; write \{name\} for the column 'name'"),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(folder, template, message):
    write_row_file(folder / "c.jsonl", [{"title": "A", "body": "b", "none": None}])
    with pytest.raises(UserError, match=message):
        corpus("c.jsonl", source_template=template)


def test_a_column_that_holds_no_text_is_named_with_what_it_holds():
    with pytest.raises(UserError, match=r"^f:1: column 'a' is int, not text; name another one with source_column$"):
        column_text({"a": 1}, "a", "source_column", "f:1")
