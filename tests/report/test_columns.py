from support.runs import evaluate, german_outputs, german_test_set

from mtcpo.report.columns import COLUMNS, columns_of


def test_a_column_of_a_diagnostic_that_was_not_checked_is_left_out():
    garden = german_test_set(5)
    entry = evaluate(garden, german_outputs(garden, {"start": 0.3, "tuned": 0.1})).entry
    unchecked = {name: row.model_copy(update={"wrong_language": None}) for name, row in entry.systems.items()}
    entry = entry.model_copy(update={"systems": unchecked})
    assert [column.title for column in columns_of(entry)] == ["length", "empty", "source copies", "repetitions"]


def test_cells_show_what_was_counted_and_a_dash_for_what_was_not():
    garden = german_test_set(5)
    scores = evaluate(garden, {"start": [""] * 5}).entry.systems["start"]
    assert COLUMNS["length"].cell(scores) == "0.00"
    assert COLUMNS["empty"].cell(scores) == "5"
    without = scores.model_copy(update={"length_ratio": None, "wrong_language": None})
    assert COLUMNS["length"].cell(without) == "–"
    assert COLUMNS["wrong_language"].cell(without) == "–"
