"""The stamp of a run directory: settings and inputs of each finished stage.

`stamp.json` has, for every finished stage, its settings, the SHA-256 of its input files, its figures and its duration;
for the run, the versions; and the stage that was begun but not finished, if any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.files import sha256_of, write_json
from mtcpo.core.provenance import provenance

STAMP_FILE = "stamp.json"

LOGS = ("metrics.jsonl", "training.json")
"""Files of a model directory that contain times: they differ if the same model is trained again."""

HUB_NAME = "not a file"
"""Recorded instead of a hash for an input that is a name on a hub."""

LONGEST_VALUE = 40
"""Maximum length of a setting's value in a message, in characters."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run.

    settings: everything it depends on besides files, as JSON. inputs: files, folders, or names on a hub. outputs: paths
    that exist when it is done. run: overwrite -> figures for the stamp. follows: its outputs only present its inputs,
    and are rebuilt without asking when the inputs change.
    """

    name: str
    summary: str
    settings: Any
    inputs: tuple[str, ...]
    outputs: tuple[Path, ...]
    run: Callable[[bool], dict[str, Any]] = field(compare=False)
    follows: bool = False

    def missing_outputs(self) -> list[Path]:
        """Return the outputs that do not exist."""
        return [path for path in self.outputs if not path.exists()]


# --- the file -------------------------------------------------------------------------------------------------------


def read_stamp(folder: Path) -> dict[str, Any]:
    """Return the stamp of a run directory; an empty one if there is none.

    Raises:
        UserError: the file is not a valid stamp.
    """
    path = folder / STAMP_FILE
    if not path.exists():
        return {"stages": {}}
    try:
        stamp: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        stamp["stages"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a stamp.json of mtcpo; delete it to run all stages again") from None
    return stamp


def record_begin(folder: Path, stage: Stage) -> dict[str, str]:
    """Record that a stage begins; return input -> hash."""
    # Hashed before the stage reads them: an input that changes meanwhile must not be recorded as read.
    inputs = {_label(name, folder): _hash(name) for name in stage.inputs}
    before = {_label(str(path), folder): _identity(path) for path in stage.outputs}
    begun = {"stage": stage.name, "settings": _as_json(stage.settings), "inputs": inputs, "before": before}
    write_json(folder / STAMP_FILE, read_stamp(folder) | {"begun": begun})
    return inputs


def record_end(
    folder: Path, stage: Stage, inputs: Mapping[str, str], figures: dict[str, Any], seconds: float | None
) -> None:
    """Record a finished stage. seconds: None if an interrupt came between its end and this record."""
    stamp = read_stamp(folder)
    stamp.pop("begun", None)
    stamp |= provenance(gpus=True)
    # Removed and reinserted, so that the stages are at the end of the file, below the versions.
    stages = stamp.pop("stages")
    stages[stage.name] = {
        "settings": _as_json(stage.settings),
        "inputs": dict(inputs),
        "figures": figures,
        "seconds": None if seconds is None else round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / STAMP_FILE, stamp | {"stages": stages})


# --- what differs from it -------------------------------------------------------------------------------------------


def differences(
    stage: Stage, folder: Path, record: Mapping[str, Any] | None, pending: Collection[Path] = ()
) -> list[str]:
    """Return descriptions of how a stage's settings and inputs differ from those recorded; [] if they are equal.

    pending: outputs that will be rebuilt. An input among them is not compared: its content is not known yet.
    """
    if record is None:
        return ["there is no record of how it was made"]
    words = []
    for key, old, new in _changes("", record.get("settings"), _as_json(stage.settings)):
        words.append(f"{key} was {_short(old)} and is now {_short(new)}")
    recorded = record.get("inputs", {})
    names = {_label(name, folder): name for name in stage.inputs}
    for label, name in names.items():
        if not is_pending(name, pending) and recorded.get(label) != _hash(name):
            words.append(f"{label} has changed")
    for label in recorded:
        if label not in names:
            words.append(f"{label} is no longer read")
    return words


def is_pending(name: str, pending: Collection[Path]) -> bool:
    """Whether an input is one of the outputs that will be rebuilt, or inside one."""
    return any(Path(name).is_relative_to(path) for path in pending)


def are_all_new(stage: Stage, folder: Path, begun: Mapping[str, Any]) -> bool:
    """Whether every output exists and is a different file or folder from when the stage was begun."""
    for path in stage.outputs:
        identity = _identity(path)
        if identity is None or identity == begun["before"].get(_label(str(path), folder)):
            return False
    return True


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _changes(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, old, new) for every value that differs between two nested JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _changes(f"{key}.{name}".strip("."), old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for first, second in zip(old, new, strict=True):
            yield from _changes(key, first, second)
    elif old != new:
        yield key or "settings", old, new


def _as_json(settings: Any) -> Any:
    """Return settings as they are read back from the stamp (tuples become lists), for comparison."""
    return json.loads(json.dumps(settings))


def _label(name: str, folder: Path) -> str:
    """Return an input's name; relative if it is in the run directory, so that the directory can be moved."""
    path = Path(name)
    return path.relative_to(folder.resolve()).as_posix() if path.is_relative_to(folder.resolve()) else name


def _hash(name: str) -> str:
    """Return the SHA-256 of a file, or of a folder without its logs; HUB_NAME if it is not a file."""
    path = Path(name)
    if not path.exists():
        return HUB_NAME
    if path.is_file():
        return _file_hash(path, *_identity_numbers(path))
    digest = hashlib.sha256()
    # Sorted by path: file systems list folders in arbitrary order.
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name not in LOGS:
            line = f"{file.relative_to(path).as_posix()} {_file_hash(file, *_identity_numbers(file))}\n"
            digest.update(line.encode())
    return digest.hexdigest()


# Cached, because every later stage hashes the same gigabytes of a model. The numbers are part of the key: they change
# when a file is rewritten.
@lru_cache(maxsize=4096)
def _file_hash(path: Path, inode: int, size: int, modified: int) -> str:
    return sha256_of(path)


def _identity_numbers(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _identity(path: Path) -> list[int] | None:
    """Return numbers that distinguish a file or folder from a replacement; None if it does not exist."""
    return list(_identity_numbers(path)) if path.exists() else None
