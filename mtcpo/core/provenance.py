"""What made a file: versions, commit and machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from mtcpo.core.resources import PACKAGE
from mtcpo.core.version import __version__

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "sacrebleu", "unbabel-comet", "peft")


def provenance(gpus: bool) -> dict[str, Any]:
    """Return versions, commit and machine. gpus: name them, which loads torch."""
    return {"mtcpo": __version__, "commit": _commit(), "machine": _machine(gpus), "versions": _versions()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # optional ones are absent from the stamp, as they are from the environment
    return found


def _machine(gpus: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"system": platform.platform(), "cores": os.cpu_count()}
    if not gpus:
        return found
    import torch

    return found | {"gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]}


def _commit() -> str | None:
    """Return the commit of the checkout that runs, marked where it has changes; None for an installed package."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changed.strip() else commit
