import sys
from typing import Annotated

import pytest

from mtcpo.core.config import Config, load_section
from mtcpo.core.errors import UserError
from mtcpo.core.user_code import (
    CodeIfAllowed,
    explain_user_code,
    is_user_code,
    load_user_code,
    needs_attributes,
    user_code_file,
)

CODE = """
import user_code_helper

def double(number):
    return 2 * number

def fail(number):
    raise ValueError("two\\nlines")

class Family:
    name = "mine"

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The start of a name of custom code in the working directory: its module imports a second one from there."""
    (tmp_path / "user_code_module.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "user_code_helper.py").write_text("", encoding="utf-8")
    (tmp_path / "user_code_broken.py").write_text("import json\n1 / 0\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield "python:user_code_module"
    for name in ("user_code_module", "user_code_helper", "user_code_broken"):
        sys.modules.pop(name, None)


def test_a_name_is_resolved_to_its_object_and_an_object_is_kept(module):
    assert load_user_code(f"{module}:double")(4) == 8
    assert load_user_code(len, "metric x") is len


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:user_code_module", "'python:user_code_module': write it as python:package.module:name"),
        ("python::double", "write it as python:package.module:name"),
        ("python:user_code_module:dubble", "unknown name in user_code_module: 'dubble' .did you mean 'double'"),
        ("python:user_code_module:number", "metric x: python:user_code_module:number: it is a int, not a function"),
        ("python:user_code_missing:f", "your code raised ModuleNotFoundError: No module named 'user_code_missing'"),
        ("python:user_code_broken:f", r"your code raised ZeroDivisionError at .*user_code_broken\.py:2: division"),
    ],
)
def test_an_unusable_name_is_explained_in_one_line(module, name, message):
    with pytest.raises(UserError, match=message) as caught:
        load_user_code(name, "metric x")
    assert "\n" not in str(caught.value)


def test_the_working_directory_is_on_the_path_only_while_code_is_imported(module, monkeypatch):
    before = [path for path in sys.path if path not in ("", str(sys.modules["os"].getcwd()))]
    monkeypatch.setattr(sys, "path", [*before])
    load_user_code(f"{module}:double")
    user_code_file(f"{module}:double")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load_user_code("python:user_code_broken:f")
    with pytest.raises(UserError, match="no module 'user_code_missing'"):
        user_code_file("python:user_code_missing:f")
    assert sys.path == before


def test_a_working_directory_that_was_on_the_path_stays_there(module, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = [*sys.path]
    load_user_code(f"{module}:double")
    assert sys.path == before


def test_an_object_must_have_the_attributes_that_are_needed(module):
    assert load_user_code(f"{module}:Family", "model.family", needs_attributes("name")).name == "mine"
    with pytest.raises(UserError, match=r"^model\.family: python:.*:Family: it is a type without encode, layout$"):
        load_user_code(f"{module}:Family", "model.family", needs_attributes("name", "encode", "layout"))


def test_an_error_in_a_call_is_reported_with_the_line_of_the_users_file(module, tmp_path):
    fail = load_user_code(f"{module}:fail")
    with (
        pytest.raises(UserError, match=r"^metric x: your code raised ValueError at .*module\.py:8: two lines$"),
        explain_user_code("metric x"),
    ):
        fail(1)


def test_an_error_of_ours_inside_a_call_keeps_its_message():
    with pytest.raises(UserError, match=r"^mine$"), explain_user_code("metric x"):
        raise UserError("mine")


def test_a_configuration_names_code_only_if_the_command_line_allows_it():
    class Section(Config):
        metric: Annotated[str, CodeIfAllowed]

    assert load_section(Section, {"metric": "chrf"}, "r").metric == "chrf"
    assert load_section(Section, {"metric": "python:a:b"}, "r", allow_code=True).metric == "python:a:b"
    with pytest.raises(UserError, match="python:a:b is custom Python code; pass --allow-code to run it"):
        load_section(Section, {"metric": "python:a:b"}, "r")


def test_only_the_prefix_makes_a_name_code():
    assert is_user_code("python:a:b")
    assert not is_user_code("my python:a:b")
