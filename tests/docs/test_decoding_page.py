"""docs/decoding.md: its commands on the demo run, and its table has every engine."""

import re
import shlex

import pytest
from click.testing import CliRunner
from support.commands_of_pages import commands_of, shortened
from support.paths import ROOT

from mtcpo.cli.commands import mtcpo
from mtcpo.translation.engines.registry import ENGINES

PAGE = ROOT / "docs/decoding.md"


@pytest.mark.slow
def test_commands_run_in_their_order(after_demo):
    # The others are sketches: their files are not those of the demo.
    commands = [command for command in commands_of(PAGE) if "runs/demo/base" in command]
    assert commands
    for command in commands:
        result = CliRunner().invoke(mtcpo, shortened(command), catch_exceptions=False)
        assert result.exit_code == 0, f"mtcpo {shlex.join(command)}\n{result.output}"
        assert (after_demo / command[command.index("--output") + 1]).exists()


def test_the_table_of_engines_has_those_of_the_code_with_their_install_commands():
    section = PAGE.read_text(encoding="utf-8").partition("## Engines\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", section, re.MULTILINE))
    installed = {name: f"`{kind.install}`" if kind.install else "always there" for name, kind in ENGINES.items()}
    assert rows == installed
