"""The wheel has all that the package needs, and runs from any folder."""

import os
import subprocess
import sys
import zipfile

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an unpacked wheel, as pip would install it."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: pip install 'mtcpo[dev]' has it")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("mtcpo-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_a_wheel_has_every_file_of_the_package(installed):
    files = {path.relative_to(ROOT) for path in (ROOT / "mtcpo").rglob("*") if path.is_file()}
    files = {path for path in files if "__pycache__" not in path.parts}
    assert [path for path in sorted(files) if not (installed / path).exists()] == []


@pytest.mark.parametrize("folder", ["recipes", "eval/suites", "data/demo"])
def test_a_wheel_has_the_files_that_come_with_the_package(installed, folder):
    shipped = installed / "mtcpo/assets" / folder
    files = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if not (shipped / path).exists()] == []


def test_an_installed_wheel_plans_the_demo_from_an_empty_folder(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "mtcpo", "run", "demo", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not there" not in done.stdout
    assert done.stdout.startswith("[1/")
    assert not list(tmp_path.iterdir())
