"""The files that come with mtcpo: recipes, suites, the demo's data.

In a checkout they are in the repository's root, beside the package; in a wheel, in the package's folder `assets`.
"""

from __future__ import annotations

from pathlib import Path

from mtcpo.core.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of the package itself: mtcpo/."""


def resource_path(relative: str, package: Path = PACKAGE) -> Path:
    """Return the path of a file or folder that comes with mtcpo, for example `resource_path("recipes/demo.toml")`.

    Raises:
        UserError: it is missing: the installation is incomplete.
    """
    for root in _roots(package):
        if (root / relative).exists():
            return root / relative
    raise UserError(f"{relative} is missing in {package}: the installation is incomplete; install mtcpo again")


def resource_tomls(folder: str) -> dict[str, Path]:
    """Return the TOML files of a folder that comes with mtcpo ("recipes", "eval/suites"): stem -> path."""
    return {path.stem: path for path in sorted(resource_path(folder).glob("*.toml"))}


def _roots(package: Path) -> list[Path]:
    # Only a checkout has pyproject.toml beside the package: an unrelated site-packages/data must not be taken for ours.
    is_checkout = (package.parent / "pyproject.toml").is_file()
    return [package.parent] if is_checkout else [package / "assets"]
