"""Write the table of packages in docs/architecture.md from the docstrings of the packages.

    python tools/architecture_table.py [--check]

The docstring of a package's `__init__.py` is its charter: the first sentence goes into the table. The table stands
between two marks in the page, and nothing else of the page is touched. --check: change nothing, and fail where the page
has another table.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
ORDER = (
    *("core", "data", "metrics", "preferences", "models", "translation"),
    *("training", "evaluation", "report", "pipeline", "api", "cli"),
)
"""The packages; each imports only those before it, as tests/test_architecture.py checks."""

BEGIN = "<!-- packages: begin -->"
END = "<!-- packages: end -->"


def charter(package: Path) -> str:
    """Return the first paragraph of a package's docstring, on one line."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def table(root: Path = ROOT / "mtcpo") -> str:
    """Return the table in Markdown: packages in the order of their imports, sub-packages below theirs."""
    lines = ["| package | what it holds |", "|---|---|"]
    for name in ORDER:
        lines.append(f"| `{name}` | {charter(root / name)} |")
        for init in sorted((root / name).glob("*/__init__.py")):
            lines.append(f"| `{name}/{init.parent.name}` | {charter(init.parent)} |")
    return "\n".join(lines)


def with_table(page: str, new: str) -> str:
    """Return a page with `new` between its two marks.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}; the table goes between them")
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def main() -> None:
    """Write the table, or with --check compare it."""
    parser = argparse.ArgumentParser(description="Write the table of packages in docs/architecture.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the table is another")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    new = with_table(page, table())
    if check and new != page:
        sys.exit(f"{PAGE.name}: its table is not that of the docstrings; run python {Path(__file__).name}")
    if not check:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
