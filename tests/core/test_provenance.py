import json
import platform
import shutil
import subprocess

import pytest

from mtcpo.core import provenance as module
from mtcpo.core.provenance import provenance
from mtcpo.core.version import __version__

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty git repository in place of ours."""
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "mtcpo")
    (tmp_path / "mtcpo").mkdir()
    return tmp_path


def commit(folder):
    (folder / "file").write_text("x")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*GIT, *arguments], cwd=folder, check=True)
    return subprocess.run([*GIT, "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_versions_and_machine_are_plain_json():
    stamp = provenance(gpus=False)
    assert json.loads(json.dumps(stamp)) == stamp
    assert stamp["mtcpo"] == __version__
    assert stamp["versions"]["python"] == platform.python_version()
    assert stamp["versions"]["sacrebleu"].startswith("2.")
    assert "gpus" not in stamp["machine"]


@needs_git
def test_the_commit_is_that_of_the_checkout_and_marks_changes(checkout):
    expected = commit(checkout).strip()
    assert provenance(gpus=False)["commit"] == expected
    (checkout / "file").write_text("y")
    assert provenance(gpus=False)["commit"] == f"{expected} with changes"


@needs_git
def test_an_installed_package_inside_somebodys_repository_has_no_commit(checkout, monkeypatch):
    commit(checkout)
    monkeypatch.setattr(module, "PACKAGE", checkout / "site-packages" / "mtcpo")
    assert provenance(gpus=False)["commit"] is None
