import pytest
from support.corpora import write

from mtcpo.core.errors import UserError
from mtcpo.data.aligned import read_aligned


def test_lines_of_the_same_number_come_together(folder):
    write("a", "1", "", "3")
    write("b", "one", "two", "three")
    assert list(read_aligned([folder / "a", folder / "b"])) == [("1", "one"), ("", "two"), ("3", "three")]


def test_only_files_that_differ_from_the_first_are_listed(folder):
    for name, count in (("a", 3), ("b", 3), ("c", 1), ("d", 4)):
        write(name, *["x"] * count)
    with pytest.raises(UserError) as caught:
        next(read_aligned([folder / name for name in "abcd"]))
    counts = f"{folder}/a has 3, {folder}/c has 1, {folder}/d has 4"
    assert str(caught.value) == f"line counts differ: {counts}; the files must be aligned line by line"
