"""Stages of a run: what each is made of, whether it is done, and the stamp that remembers it.

`stamp.json` in the run directory holds for every finished stage a fingerprint of its settings and of the SHA-256 of
its input files, its figures and its time; and for the run the versions that made it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mtcpo import __version__
from mtcpo.errors import UserError
from mtcpo.files import sha256_of, write_json

STAMP_FILE = "stamp.json"

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "sacrebleu", "unbabel-comet", "peft")

State = Literal["done", "to do", "changed"]
"""changed: its outputs are there, but were made of other inputs or with other settings."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run.

    settings: what it depends on besides files, as JSON. inputs: files, folders, or names on a hub. outputs: what
    exists when it is done. run: gets `overwrite`, returns figures for the stamp.
    """

    name: str
    what: str
    settings: Any
    inputs: tuple[str, ...]
    outputs: tuple[Path, ...]
    run: Callable[[bool], dict[str, Any]] = field(compare=False)


def read_stamp(folder: Path) -> dict[str, Any]:
    """Return the stamp of a run directory; an empty one where there is none."""
    path = folder / STAMP_FILE
    stamp: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"stages": {}}
    return stamp


def state_of(stage: Stage, stamp: dict[str, Any]) -> State:
    """Tell whether a stage is done, to do, or was done of something else."""
    there = [path for path in stage.outputs if path.exists()]
    recorded = stamp["stages"].get(stage.name)
    if len(there) < len(stage.outputs):
        return "to do"
    return "done" if recorded and recorded["fingerprint"] == fingerprint_of(stage) else "changed"


def fingerprint_of(stage: Stage) -> str:
    """Hash settings and inputs; a name on a hub counts as itself."""
    parts = {"settings": stage.settings, "inputs": {name: _hash(name) for name in stage.inputs}}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _hash(name: str) -> str:
    path = Path(name)
    return sha256_of(path) if path.exists() else "not a file"


def plan(stages: Sequence[Stage], folder: Path) -> Iterator[str]:
    """Yield a line for every stage with its state. What follows a stage that is not done may have to be done again."""
    stamp, waiting = read_stamp(folder), set[str]()
    for number, stage in enumerate(stages, start=1):
        state: str = state_of(stage, stamp)
        if state == "done" and waiting & set(stage.inputs):
            state = "done, unless its inputs change"
        if state == "to do" or state == "changed":
            waiting |= {str(path) for path in stage.outputs}
        yield f"{_head(number, stages)} - {state}"


def _head(number: int, stages: Sequence[Stage]) -> str:
    stage = stages[number - 1]
    return f"[{number}/{len(stages)}] {stage.name}: {stage.what}"


def check_may_run(stages: Sequence[Stage], folder: Path, overwrite: bool) -> None:
    """Refuse a run that would replace what was made with other settings or inputs.

    Raises:
        UserError: there is such an output, and no `overwrite`.
    """
    stamp = read_stamp(folder)
    for stage in stages:
        if not overwrite and state_of(stage, stamp) == "changed":
            raise UserError(
                f"{stage.outputs[0]} was made with other settings or inputs than stage {stage.name!r} has now; "
                "pass --overwrite to make it again, or choose another --output-dir"
            )


def run_stages(stages: Sequence[Stage], folder: Path, overwrite: bool, say: Callable[[str], None]) -> None:
    """Run the stages that are not done, in order, stamping each.

    Raises:
        UserError: outputs were made of other inputs or settings and may not be overwritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(stages, start=1):
        if state_of(stage, read_stamp(folder)) == "done":
            say(f"{_head(number, stages)} - done already")
            continue
        check_may_run([stage], folder, overwrite)
        say(_head(number, stages))
        # Hashed before: an input that changes meanwhile must not pass for what was read.
        fingerprint, start = fingerprint_of(stage), time.perf_counter()
        figures = stage.run(overwrite)
        seconds = time.perf_counter() - start
        _stamp(folder, stage, fingerprint, figures, seconds)
        told = ", ".join(f"{name} {_plain(value)}" for name, value in figures.items() if value not in ({}, None))
        say(f"      {seconds:.0f} s" + (f" - {told}" if told else ""))


def _plain(value: Any) -> str:
    return " ".join(f"{key} {number}" for key, number in value.items()) if isinstance(value, dict) else str(value)


def _stamp(folder: Path, stage: Stage, fingerprint: str, figures: dict[str, Any], seconds: float) -> None:
    stamp = read_stamp(folder)
    stamp |= {"mtcpo": __version__, "commit": _commit(), "machine": _machine(), "versions": _versions()}
    stages = stamp.pop("stages")
    stages[stage.name] = {
        "fingerprint": fingerprint,
        "inputs": {Path(name).name: _hash(name) for name in stage.inputs},
        "figures": figures,
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / STAMP_FILE, stamp | {"stages": stages})


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # optional ones are absent from the stamp, as they are from the environment
    return found


def _machine() -> dict[str, Any]:
    import os

    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"system": platform.platform(), "cores": os.cpu_count(), "gpus": gpus}


def _commit() -> str | None:
    """Return the commit of the checkout that runs, marked where it has changes; None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changed.strip() else commit
