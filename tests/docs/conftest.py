"""What tests of several pages share."""

import re
import shutil
from itertools import islice

import pytest
from support.paths import ROOT


@pytest.fixture
def after_demo(tmp_path, model_folder, monkeypatch):
    """A folder as `make demo` leaves it, with few lines and a tiny model."""
    for name, lines in (("prefs", 12), ("dev", 40), ("test", 1000)):
        for language in ("en", "de"):
            source, target = ROOT / f"data/demo/{name}.{language}", tmp_path / f"data/demo/{name}.{language}"
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open(encoding="utf-8") as file:
                target.write_text("".join(islice(file, lines)), encoding="utf-8")
    shutil.copytree(model_folder("mt5"), tmp_path / "runs/demo/base")
    outputs = tmp_path / "runs/demo/translations/demo/en-de"
    outputs.mkdir(parents=True)
    references = (tmp_path / "data/demo/test.de").read_text(encoding="utf-8")
    (outputs / "tuned.txt").write_text(references, encoding="utf-8")
    (outputs / "base.txt").write_text(re.sub(r"\b(der|die|das)\b", "den", references), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path
