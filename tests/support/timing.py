"""Time limits: a limit in a test catches what hangs, and never measures speed.

Limits are far above what an idle machine needs, and MTCPO_TEST_TIMEOUT_SCALE multiplies them where a machine is slower
or busier still. Where a test does measure speed, it counts processor time, which other processes do not change.
"""

import os
import time

SCALE = float(os.environ.get("MTCPO_TEST_TIMEOUT_SCALE", "1"))

HANGS = 600 * SCALE
"""Seconds after which a process, or what a test waits for, counts as hanging."""

TEST_HANGS = 2 * HANGS
"""The same for a whole test, longer, so that the inner limit with its clearer message comes first."""

POLL = 0.002
"""Seconds between two looks at a condition."""


def wait_until(condition, process=None):
    """Wait until `condition()` is true.

    process: what brings it about; it must not have ended before, and what it printed shows if it has.
    """
    deadline = time.monotonic() + HANGS
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"the process ended with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline, f"nothing happened within {HANGS:.0f} s"
        time.sleep(POLL)
