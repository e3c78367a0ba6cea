import pytest

from mtcpo.core.errors import UserError
from mtcpo.core.resources import PACKAGE, resource_path, resource_tomls


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_a_wheel_has_its_files_inside_the_package(tmp_path):
    package = tmp_path / "site-packages" / "mtcpo"
    make(package, "assets/recipes/demo.toml")
    assert resource_path("recipes/demo.toml", package) == package / "assets/recipes/demo.toml"


def test_a_checkout_has_them_beside_the_package(tmp_path):
    make(tmp_path, "pyproject.toml", "recipes/demo.toml", "mtcpo/__init__.py")
    assert resource_path("recipes", tmp_path / "mtcpo") == tmp_path / "recipes"


def test_what_lies_beside_an_installed_package_is_not_ours(tmp_path):
    make(tmp_path, "data/demo/test.en", "mtcpo/__init__.py")
    with pytest.raises(UserError, match=r"data/demo is missing in .*install mtcpo again"):
        resource_path("data/demo", tmp_path / "mtcpo")


def test_the_suites_of_this_tree_are_found():
    suites = resource_tomls("eval/suites")
    assert {"demo", "wmt22"} <= suites.keys()
    assert suites["demo"].is_file()
    assert PACKAGE.name == "mtcpo"
