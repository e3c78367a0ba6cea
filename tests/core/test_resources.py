import pytest

from mtcpo.core.errors import UserError
from mtcpo.core.resources import PACKAGE, resource_path, resource_tomls


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_resources_of_a_wheel_are_inside_the_package(tmp_path):
    package = tmp_path / "site-packages" / "mtcpo"
    make(package, "assets/recipes/demo.toml")
    assert resource_path("recipes/demo.toml", package) == package / "assets/recipes/demo.toml"


def test_resources_of_a_checkout_are_beside_the_package(tmp_path):
    make(tmp_path, "pyproject.toml", "recipes/demo.toml", "mtcpo/__init__.py")
    assert resource_path("recipes", tmp_path / "mtcpo") == tmp_path / "recipes"


def test_files_beside_an_installed_package_are_not_taken_for_resources(tmp_path):
    make(tmp_path, "data/demo/test.en", "mtcpo/__init__.py")
    with pytest.raises(UserError, match=r"data/demo is missing in .*install mtcpo again"):
        resource_path("data/demo", tmp_path / "mtcpo")


def test_the_suites_of_this_checkout_are_found():
    suites = resource_tomls("eval/suites")
    assert {"demo", "wmt22"} <= suites.keys()
    assert suites["demo"].is_file()
    assert PACKAGE.name == "mtcpo"
