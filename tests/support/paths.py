"""Where the checkout and the real data of the tests are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

DATA = Path(os.environ.get("MTCPO_TEST_DATA") or ROOT / "no-test-data")
"""The folder with `multi30k/` and `wmt22/`, which are not ours to ship; only tests marked `data` may read it."""

WMT22 = DATA / "wmt22"
MULTI30K = DATA / "multi30k"
