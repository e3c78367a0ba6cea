"""Where the checkout and the real data of the tests are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

DATA = Path(os.environ.get("MTCPO_TEST_DATA", ROOT / "no-test-data"))
"""The folder with `multi30k/` and `wmt22/`, which are not ours to ship: MTCPO_TEST_DATA names it."""
