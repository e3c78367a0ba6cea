"""The commands of `mtcpo`. Each parses, calls one function and prints one result; heavy imports stay inside."""

from __future__ import annotations

import click

from mtcpo.cli.build_prefs import build_prefs
from mtcpo.cli.evaluate import evaluate
from mtcpo.cli.exits import Group
from mtcpo.cli.export import export
from mtcpo.cli.run import recipes, run
from mtcpo.cli.train import train
from mtcpo.cli.translate import merge, translate
from mtcpo.core.version import __version__


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mtcpo")
def mtcpo() -> None:
    """Preference training of machine-translation models.

    Build triplets (source, chosen, rejected) from scored MT outputs, train with CPO and related losses, evaluate on
    WMT test sets. `mtcpo run demo` does all of it in a few minutes.
    """


@click.command(short_help="Show what works in this environment.")
def doctor() -> None:
    """Show what works in this environment, and what to install for the rest."""
    from mtcpo.cli.doctor import check_environment

    for line in check_environment():
        click.echo(line)


# In the order of a project's work, also in --help.
for command in (translate, merge, build_prefs, train, evaluate, run, export, recipes, doctor):
    mtcpo.add_command(command)
