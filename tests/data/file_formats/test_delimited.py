"""TSV and CSV files."""

import csv

import pytest
from support.corpora import corpus, write

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate


def test_csv_has_quoting_and_tsv_has_none(folder):
    write("t.tsv", "source\treference\tsys", 'Er sagte "ja\tHe said "yes\tHe "said')
    columns = {"hypothesis_columns": {"one": "sys"}}
    [segment] = corpus("t.tsv", **columns)
    assert (segment.source, segment.references[0]) == ('Er sagte "ja', 'He said "yes')
    assert segment.candidates == (Candidate("one", 'He "said'),)
    with open("t.csv", "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
        csv.writer(file).writerows([["source", "reference", "sys"], ['a "b", c', "two\nlines", "x"], ["d", "e", "f"]])
    first, second = corpus("t.csv", **columns)
    assert (first.source, first.references, first.candidates[0].text) == ('a "b", c', ("two\nlines",), "x")
    assert second.source == "d"


def test_mistakes_in_tables_name_file_and_line(folder):
    write("t.tsv", "source\treference", "a\tb", "only one")
    with pytest.raises(UserError, match=r"t\.tsv:3: 1 field, but the header has 2: source, reference"):
        corpus("t.tsv")
    write("t.tsv", "src\treference", "a\tb")
    with pytest.raises(
        UserError, match=r"t\.tsv:2: no column 'source' \(did you mean 'src'\?\); the row has reference, src"
    ):
        corpus("t.tsv")
    assert corpus("t.tsv", source_column="src")[0].source == "a"
    with pytest.raises(UserError, match=r"no column 'ref'.*set reference_columns"):
        corpus("t.tsv", source_column="src", reference_columns=["ref"])
    write("t.tsv", "a\ta", "1\t2")
    with pytest.raises(UserError, match="two columns have the same name"):
        corpus("t.tsv")
    write("t.csv", "source", '"open')
    with pytest.raises(UserError, match=r"t\.csv:2: unexpected end of data"):
        corpus("t.csv")
