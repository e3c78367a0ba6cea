"""Provenance of a result: versions, commit and machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from mtcpo.core.resources import PACKAGE
from mtcpo.core.version import __version__

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "numpy",
    "sacrebleu",
    "unbabel-comet",
    "peft",
    "ctranslate2",
    "vllm",
)


def provenance(gpus: bool) -> dict[str, Any]:
    """Return versions, commit and machine. gpus: whether to name the GPUs, which imports torch."""
    return {"mtcpo": __version__, "commit": _commit(), "machine": _machine(gpus), "versions": _versions()}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # optional packages that are not installed have no entry
    return versions


def _machine(gpus: bool) -> dict[str, Any]:
    machine: dict[str, Any] = {"system": platform.platform(), "cores": os.cpu_count()}
    if gpus:
        import torch

        machine["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return machine


def _commit() -> str | None:
    """Return the checkout's commit, marked if there are uncommitted changes; None for an installed package."""
    root = PACKAGE.parent
    # Otherwise git would search the parent folders and report the commit of an unrelated repository.
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changed.strip() else commit
