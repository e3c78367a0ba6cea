"""What several tests of models share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(model_folder, tmp_path):
    """A function from a kind of tiny model to a copy of its directory, to be changed."""
    # Not named after its kind: 4.57 guesses a missing type from the name of the folder.
    return lambda kind: Path(shutil.copytree(model_folder(kind), tmp_path / "folder"))
