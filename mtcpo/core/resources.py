"""Where the files that come with mtcpo lie: recipes, suites, the demo's data.

In a checkout they lie beside the package (the repository's root), in an installed wheel in its folder `assets`.
"""

from __future__ import annotations

from pathlib import Path

from mtcpo.core.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of the package itself: mtcpo/."""


def shipped(relative: str, package: Path = PACKAGE) -> Path:
    """Return the path of a file or folder that ships with mtcpo, for example `shipped("recipes/demo.toml")`.

    Raises:
        UserError: it is not there, so the installation is not complete.
    """
    for root in _roots(package):
        if (root / relative).exists():
            return root / relative
    raise UserError(f"{relative} is missing in {package}: the installation is not complete; install mtcpo again")


def shipped_toml(folder: str) -> dict[str, Path]:
    """Return the TOML files of a shipped folder ("recipes", "eval/suites") by their name without the suffix."""
    return {path.stem: path for path in sorted(shipped(folder).glob("*.toml"))}


def _roots(package: Path) -> list[Path]:
    # Only a checkout has pyproject.toml beside the package: an unrelated site-packages/data must not pass for ours.
    is_checkout = (package.parent / "pyproject.toml").is_file()
    return [package.parent] if is_checkout else [package / "assets"]
