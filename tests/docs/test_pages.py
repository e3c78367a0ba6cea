"""README, CONTRIBUTING, docs/ and the metadata files: what they name exists, and they agree with the package."""

import re

import pytest
import yaml
from support.paths import ROOT

import mtcpo
from mtcpo.training.losses import LOSSES, loss_table

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("eval/results/**/*.md"), ROOT / "data/README.md"]
)
FOLDERS = ("mtcpo", "docs", "eval", "tests", "data", "recipes", "tools")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+|[A-Z]+\.(?:md|cff))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    # The table of packages has their names within mtcpo; `data` is also a folder of the repository.
    packages = {path.parent.relative_to(ROOT / "mtcpo").as_posix() for path in ROOT.glob("mtcpo/*/*/__init__.py")}
    missing = {name for name in set(PATH.findall(text)) - packages if not (ROOT / name).exists()}
    # A file that is made at run time, such as the README.md of a saved model, has the name of no file here.
    assert not missing, f"{page.name} names files that do not exist: {sorted(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_keep_to_the_glossary(page):
    text = page.read_text(encoding="utf-8")
    if page.name == "glossary.md":
        text = text.partition("## Words to avoid")[0]
    avoided = ["the library", "in shares", "made anew", "begun anew", "goes on from", "gone on from", "as much further"]
    assert [words for words in avoided if words in text.lower()] == []


def test_the_citation_has_the_version_and_the_license_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mtcpo.__version__
    assert citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])


def test_pre_commit_runs_what_make_check_runs():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    commands = re.findall(r"\t\$\(BIN\)/(.*)\n", recipe)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in hooks] == commands


def test_the_page_on_training_has_the_table_of_losses():
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    assert loss_table() in page, "replace the table by the output of mtcpo.training.losses.loss_table()"
    table = page.partition("| loss | preference term |")[2].partition("\n\n")[0]
    terms = re.findall(r"^\| `([\w-]+)` \| .+ \|$", table, re.MULTILINE)
    assert terms == [name for name, loss in LOSSES.items() if loss.function is not None]
