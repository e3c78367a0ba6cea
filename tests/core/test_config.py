from pathlib import Path

import pytest
from pydantic import Field

from mtcpo.core.config import (
    CommandLineText,
    Config,
    PathOrName,
    apply_overrides,
    load_section,
    parse_override,
    read_toml,
    to_toml,
)
from mtcpo.core.errors import UserError


class Optimizer(Config):
    lr: float = Field(1e-4, gt=0)


class Recipe(Config):
    name: str
    data: PathOrName | None = None
    optimizer: Optimizer = Optimizer()
    stages: tuple[Optimizer, ...] = ()


class Files(Config):
    name: str
    corpora: dict[str, PathOrName] = Field(default_factory=dict)
    files: tuple[PathOrName, ...] = ()


def test_an_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(
        UserError, match=r"r\.toml: unknown key 'nane' \(did you mean 'name'\?\); its keys are data, name"
    ):
        load_section(Recipe, {"nane": "x", "name": "y"}, "r.toml")
    with pytest.raises(UserError, match=r"unknown key 'optimizer\.lrr' \(did you mean 'lr'\?\)"):
        load_section(Recipe, {"name": "x", "optimizer": {"lrr": 1}}, "r.toml")
    with pytest.raises(UserError, match=r"unknown key 'stages\.0\.lrr' \(did you mean 'lr'\?\)"):
        load_section(Recipe, {"name": "x", "stages": [{"lrr": 1}]}, "r.toml")


def test_messages_name_key_and_value():
    with pytest.raises(UserError, match=r"optimizer\.lr: .*greater than 0 \(got -1\)"):
        load_section(Recipe, {"name": "x", "optimizer": {"lr": -1}}, "r.toml")
    with pytest.raises(UserError, match="'name' is missing"):
        load_section(Recipe, {}, "r.toml")


def test_sections_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_section(Recipe, {"name": "x"}, "r.toml").name = "y"


def test_relative_paths_start_at_the_recipe_and_names_stay(tmp_path):
    (tmp_path / "train.de").write_text("x")
    load = lambda value: load_section(Recipe, {"name": "x", "data": value}, "r", base=tmp_path).data  # noqa: E731
    assert load("train.de") == str(tmp_path / "train.de")
    assert load("./missing.de") == str(tmp_path / "missing.de")
    assert load("wmt/wmt16") == "wmt/wmt16"
    assert load("google/mt5-small") == "google/mt5-small"


def test_paths_in_tables_and_lists_of_an_override_start_at_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "a.txt").touch()
    monkeypatch.chdir(tmp_path)
    data = apply_overrides({"name": "x"}, ['corpora={first = "a.txt"}', 'files=["a.txt"]'])
    section = load_section(Files, data, "r.toml", base=tmp_path / "recipes")
    assert section.corpora == {"first": str(tmp_path / "a.txt")}
    assert section.files == (str(tmp_path / "a.txt"),)


def test_paths_from_the_command_line_start_at_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.txt").write_text("x")
    (tmp_path / "recipe").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    given = {"name": "x", "data": CommandLineText("a.txt")}
    assert load_section(Recipe, given, "r", base=tmp_path / "recipe").data == str(tmp_path / "here" / "a.txt")


@pytest.mark.parametrize(
    ("override", "keys", "value"),
    [
        ("train.beta=0.2", ["train", "beta"], 0.2),
        ("train.fp16=true", ["train", "fp16"], True),
        ("metrics=['chrf', 'bleu']", ["metrics"], ["chrf", "bleu"]),
        ("model=google/mt5-small", ["model"], "google/mt5-small"),
        ("name=a=b", ["name"], "a=b"),
        ("name=", ["name"], ""),
    ],
)
def test_an_override_is_toml_or_text(override, keys, value):
    assert parse_override(override) == (keys, value)


def test_overrides_create_tables_but_replace_no_value_by_one():
    assert apply_overrides({}, ["a.b.c=1", "a.b.d=2"]) == {"a": {"b": {"c": 1, "d": 2}}}
    with pytest.raises(UserError, match="'a' is a value, not a table"):
        apply_overrides({"a": 1}, ["a.b=2"])
    with pytest.raises(UserError, match="write it as KEY=VALUE"):
        apply_overrides({}, ["beta"])


def test_mistakes_in_toml_name_file_and_line(tmp_path):
    path = tmp_path / "r.toml"
    with pytest.raises(UserError, match="no such file"):
        read_toml(path)
    path.write_text("a = = 1\n")
    with pytest.raises(UserError, match=r"r\.toml: .*line 1"):
        read_toml(path)
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(UserError, match="not UTF-8"):
        read_toml(path)


def test_a_resolved_recipe_is_read_as_written(tmp_path):
    recipe = load_section(Recipe, {"name": "x", "stages": [{"lr": 0.5}]}, "r")
    Path(tmp_path / "r.toml").write_text(to_toml(recipe), encoding="utf-8")
    assert load_section(Recipe, read_toml(tmp_path / "r.toml"), "r") == recipe
