"""What a marker of a test requires of the machine, and why the test is skipped where that is missing."""

import functools
import shutil
import subprocess
import sys

from support.paths import MULTI30K, WMT22

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@functools.cache
def has_comet(python=sys.executable):
    """Whether an interpreter has unbabel-comet; nothing of it is imported."""
    code = "import importlib.metadata as metadata; metadata.version('unbabel-comet')"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


@functools.cache
def browser_program():
    """The first Chromium on the search path, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _missing_data():
    missing = [folder.name for folder in (WMT22, MULTI30K) if not folder.is_dir()]
    return f"MTCPO_TEST_DATA does not name a folder with {' and '.join(missing)}" if missing else None


REASONS_TO_SKIP = {
    "comet": lambda: None if has_comet() else "needs unbabel-comet: mtcpo[comet], or docs/pairs.md",
    "browser": lambda: None if browser_program() else "needs Chromium: none of its names is on the PATH",
    "data": _missing_data,
}
"""Marker -> why tests that have it cannot run here, or None where they can."""
