"""Numbers on disk: what is asked of them equals what numpy and sorted say of a list."""

import math
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcpo.preferences.spill import Column

NUMBERS = st.floats(-1e9, 1e9, allow_subnormal=False)


def column_of(values):
    column = Column()
    for value in values:
        column.append(value)
    return column


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1), st.lists(st.floats(0, 1), max_size=4).map(sorted))
def test_a_column_is_a_list(values, shares):
    with closing(column_of(values)) as column:
        assert len(column) == len(values)
        assert list(column) == values
        assert column.mean() == math.fsum(values) / len(values)
        assert column.quantiles(shares) == pytest.approx(np.quantile(values, shares).tolist(), rel=1e-12, abs=1e-6)
        assert list(column.by_size()) == sorted(enumerate(values), key=lambda pair: pair[1])
        assert list(column.by_size(largest_first=True)) == sorted(enumerate(values), key=lambda pair: -pair[1])


def test_worked_quantiles():
    with closing(column_of([4.0, 1.0, 2.0])) as column:
        assert column.quantiles([0, 0.25, 0.5, 0.75, 1]) == [1, 1.5, 2, 3, 4]


def test_two_columns_side_by_side():
    with closing(column_of([1.0, 2.0])) as first, closing(column_of([3.0, 4.0])) as second:
        assert list(zip(first, second, strict=True)) == [(1, 3), (2, 4)]


PEAK = """
import resource, sys
from mtcpo.preferences.spill import Column
column = Column()
for number in range(int(sys.argv[1])):
    column.append(number * 0.7 % 1.0)
assert sum(1 for _ in column.by_size()) == len(column) == int(sys.argv[1])
column.quantiles([0.1, 0.9])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow():
    # As a list of floats a million numbers would be 32 MB.
    few, many = (
        int(subprocess.run([sys.executable, "-c", PEAK, str(n)], capture_output=True, text=True, check=True).stdout)
        for n in (200_000, 1_000_000)
    )
    assert (many - few) * (1 if sys.platform == "darwin" else 1024) < 4e6
