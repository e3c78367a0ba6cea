import pytest

from mtcpo.core.errors import choose, counted, first_line, nearest, one_line, standing, standing_of


def test_an_unknown_name_lists_the_choices_and_names_the_nearest():
    error = choose("metric", "chr", ["ter", "chrf"])
    assert str(error) == "unknown metric 'chr' (did you mean 'chrf'?); choose from chrf, ter"
    assert nearest("xyz", ["chrf"]) == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [(OSError("no file\nand more"), "no file"), (ValueError("\n\n  late"), "late"), (KeyError(), "KeyError")],
)
def test_the_first_line_of_an_error_is_never_empty(error, line):
    assert first_line(error) == line


def test_a_noun_is_plural_unless_it_is_one():
    assert [counted(number, "segment") for number in (0, 1, 2)] == ["0 segments", "1 segment", "2 segments"]


def test_a_whole_message_fits_on_one_line():
    assert one_line(ValueError("two\n  lines\tof text")) == "two lines of text"


def test_an_interrupt_says_where_nested_work_stands_outermost_first():
    with (
        pytest.raises(KeyboardInterrupt) as interrupt,
        standing(lambda: "stage 5 of 9 (train)"),
        standing(lambda: ""),  # nothing to say
        standing(lambda: "saved at step 679 of 1,668"),
    ):
        raise KeyboardInterrupt
    assert standing_of(interrupt.value) == "stage 5 of 9 (train), saved at step 679 of 1,668"
    assert standing_of(KeyboardInterrupt()) == ""
