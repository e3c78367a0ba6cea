"""No option is accepted and then ignored: it reaches the settings of its command, or the command's code reads it."""

import ast
import inspect
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import click
import pytest
from support.console import run, words

from mtcpo.cli import configuration, options
from mtcpo.cli.commands import mtcpo
from mtcpo.core import config
from mtcpo.evaluation.config import RunEvaluateConfig
from mtcpo.preferences.build import PrefsConfig
from mtcpo.training.config import TrainConfig
from mtcpo.translation.config import TranslateConfig

SECTIONS = {
    "translate": (TranslateConfig, "translate no.en --model m --output c.jsonl"),
    "build-prefs": (PrefsConfig, "build-prefs no.jsonl --metric chrf --output p.jsonl"),
    "train": (
        TrainConfig,
        "train --model m --prefs no.jsonl --src-lang en --tgt-lang de --dev-source no.en --output-dir t",
    ),
    "evaluate": (RunEvaluateConfig, "evaluate --output-dir e"),
}
"""Command -> the section that its options set, and a command line that ends where a file is missing."""


def function_of(command):
    """Return the function that a command was made of."""
    return inspect.unwrap(command.callback)


def groups_of(command):
    """Return the classes of the groups of options that a command takes."""
    hints = inspect.get_annotations(function_of(command), eval_str=True).values()
    return [hint for hint in hints if is_dataclass(hint)]


def option_fields(is_setting):
    """Return command, group and field of every option of a group that is a setting, or of every other one."""
    rows = []
    for name, command in mtcpo.commands.items():
        for group in groups_of(command):
            for field in fields(group):
                if ("key" in field.metadata) == is_setting:
                    rows.append(pytest.param(name, group, field, id=f"{name} {field.metadata['names'][0]}"))
    return rows


def at(section, key):
    """Return what stands at a key with dots."""
    for part in key.split("."):
        section = section[part]
    return section


@pytest.mark.parametrize(("name", "group", "field"), option_fields(is_setting=True))
def test_a_setting_reaches_the_section_of_its_command(name, group, field, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section, line = SECTIONS[name]
    sections = {}
    load_section = config.load_section

    def load_and_note(cls, data, *args, **keywords):
        sections[cls] = data
        return load_section(cls, data, *args, **keywords)

    monkeypatch.setattr(config, "load_section", load_and_note)
    command = mtcpo.commands[name]
    (parameter,) = [each for each in command.params if each.name == field.name]
    text = parameter.type.choices[-1] if isinstance(parameter.type, click.Choice) else "3"
    given = [parameter.opts[0]] if parameter.is_flag else [parameter.opts[0], text]
    outcome = run(capsys, *words(line), *given)
    value = True if parameter.is_flag else parameter.type(text)
    at_key = at(sections[section], field.metadata["key"] or field.name)
    assert at_key == value or at_key[-1] == value
    # The section has this key, whatever it thinks of the value.
    assert outcome.code == 2
    assert "unknown key" not in outcome.err


def reads_of(function, argument):
    """Return the attributes of an argument that a function reads."""
    attributes = [node for node in ast.walk(function) if isinstance(node, ast.Attribute)]
    return {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == argument}


def parsed(module):
    """Return the syntax tree of a module."""
    return ast.parse(Path(module.__file__).read_text(encoding="utf-8"))


def reads_of_group(group, module):
    """Return the fields of a group that a command's module reads, by itself, by a method or by what commands share."""
    reads = set()
    for tree in (parsed(module), parsed(configuration)):
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for argument in function.args.args:
                if argument.annotation is not None and ast.unparse(argument.annotation) == group.__name__:
                    reads |= reads_of(function, argument.arg)
    for tree in (parsed(module), parsed(options)):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == group.__name__:
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                for method in methods:
                    is_called = method.name in reads or method.name == "__post_init__"
                    reads |= reads_of(method, "self") if is_called else set()
    return reads


@pytest.mark.parametrize(("name", "group", "field"), option_fields(is_setting=False))
def test_an_option_that_is_not_a_setting_is_read_by_its_command(name, group, field):
    module = sys.modules[function_of(mtcpo.commands[name]).__module__]
    assert field.name in reads_of_group(group, module), "nothing reads it; is it a setting(...)?"


@pytest.mark.parametrize("name", mtcpo.commands)
def test_an_option_of_one_command_alone_is_read_by_it(name):
    function = function_of(mtcpo.commands[name])
    (tree,) = [
        node
        for node in ast.walk(parsed(sys.modules[function.__module__]))
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__
    ]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert set(inspect.signature(function).parameters) <= names
