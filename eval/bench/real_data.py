"""Where the benchmarks find WMT22 and Multi30k, which are not part of this repository."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder(name: str) -> Path:
    """Return a folder of real data: `wmt22/de-en`, `multi30k`, ... in the folder that MTCPO_TEST_DATA names.

    Raises:
        SystemExit: the variable is not set, or the folder is missing.
    """
    root = os.environ.get("MTCPO_TEST_DATA")
    if not root:
        raise SystemExit("MTCPO_TEST_DATA is not set; set it to the folder that holds wmt22/ and multi30k/")
    folder = Path(root) / name
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder; MTCPO_TEST_DATA must name the folder that holds {name}")
    return folder
