"""What waits on disk: a set of hashes, and rows."""

import subprocess
import sys
from contextlib import closing

import pytest

from mtcpo.preferences.spill import HashSet, Spool, hash_of


def test_a_hash_is_new_once():
    with closing(HashSet()) as seen:
        assert [seen.add(hash_of(*parts)) for parts in (("a", "b"), ("ab",), ("a", "b"), ("b", "a"))] == [
            True, True, False, True,
        ]  # fmt: skip


def test_rows_are_read_as_they_were_written(tmp_path):
    with closing(Spool(tmp_path)) as spool:
        rows = [{"text": "Bär\n", "score": 0.1}, {}]
        for row in rows:
            spool.write(row)
        assert list(spool.rows()) == rows
        assert list(spool.lines())[1] == b"{}\n"
    assert list(tmp_path.iterdir()) == []


PEAK = """
import resource, sys
from mtcpo.preferences.spill import HashSet, hash_of
seen = HashSet()
for number in range(int(sys.argv[1])):
    assert seen.add(hash_of(str(number)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_of_a_hash_set_does_not_grow():
    # As a Python set of bytes, 320,000 hashes would be some 30 MB.
    peaks = []
    for count in (80_000, 400_000):
        command = [sys.executable, "-c", PEAK, str(count)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert (peaks[1] - peaks[0]) * (1 if sys.platform == "darwin" else 1024) < 4e6
