"""Stages of a run: what each is made of, whether it is done, and the stamp that remembers it.

`stamp.json` in the run directory holds for every finished stage its settings, the SHA-256 of its input files, its
figures and its time; for the run the versions that made it; and which stage was begun and did not end.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from mtcpo.core.errors import UserError
from mtcpo.core.files import sha256_of, write_json
from mtcpo.core.provenance import provenance
from mtcpo.data.row_files import is_file

STAMP_FILE = "stamp.json"

LOGS = ("metrics.jsonl", "training.json")
"""Files of a model directory that hold times: the same model made again has others."""

HUB_NAME = "not a file"

State = Literal["done", "to do", "changed", "done, unless its inputs change"]
"""changed: its outputs are there, but were made of other inputs or with other settings. The last: an earlier stage
will make its inputs again, and perhaps make them as they were."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run.

    settings: what it depends on besides files, as JSON. inputs: files, folders, or names on a hub. outputs: what
    exists when it is done. run: gets `overwrite`, returns figures for the stamp. follows: what it makes is but a view
    of its inputs, made again without asking when they change.
    """

    name: str
    what: str
    settings: Any
    inputs: tuple[str, ...]
    outputs: tuple[Path, ...]
    run: Callable[[bool], dict[str, Any]] = field(compare=False)
    follows: bool = False


def read_stamp(folder: Path) -> dict[str, Any]:
    """Return the stamp of a run directory; an empty one where there is none.

    Raises:
        UserError: the file is there and is no stamp.
    """
    path = folder / STAMP_FILE
    if not path.exists():
        return {"stages": {}}
    try:
        stamp: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        stamp["stages"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a stamp of mtcpo's; delete it to run all stages anew") from None
    return stamp


# --- what is done ---------------------------------------------------------------------------------------------------


def state_of(stage: Stage, folder: Path, stamp: Mapping[str, Any], pending: Collection[Path] = ()) -> State:
    """Tell whether a stage is done, to do, or was done of something else; `pending` inputs will be made again."""
    there = [path for path in stage.outputs if path.exists()]
    if not there:
        return "to do"
    if not _differences(stage, folder, stamp["stages"].get(stage.name), pending):
        if len(there) < len(stage.outputs):
            return "to do"
        waits = any(_is_pending(name, pending) for name in stage.inputs)
        return "done, unless its inputs change" if waits else "done"
    begun = stamp.get("begun")
    if not begun or begun["stage"] != stage.name or _differences(stage, folder, begun, pending):
        return "changed"
    # Interrupted: perhaps only between its last output and its stamp. What was there before is not of its making.
    new = [_identity(path) not in (None, begun["before"].get(_label(str(path), folder))) for path in stage.outputs]
    return "done" if all(new) else "to do"


def _states(stages: Sequence[Stage], folder: Path) -> Iterator[tuple[Stage, State]]:
    stamp, pending = read_stamp(folder), set[Path]()
    for stage in stages:
        state = state_of(stage, folder, stamp, pending)
        if state != "done":
            pending |= set(stage.outputs)
        yield stage, state


def _is_pending(name: str, pending: Collection[Path]) -> bool:
    return any(Path(name).is_relative_to(path) for path in pending)


def _differences(
    stage: Stage, folder: Path, record: Mapping[str, Any] | None, pending: Collection[Path] = ()
) -> list[str]:
    """Return what a stage is made of now and was not when `record` was written, in words; [] where all is equal."""
    if record is None:
        return ["there is no record of how it was made"]
    settings = [
        f"{key} was {_short(old)} and is {_short(new)}"
        for key, old, new in _changes("", record.get("settings"), _settings(stage))
    ]
    before = record.get("inputs", {})
    now = {_label(name, folder): name for name in stage.inputs}
    inputs = [
        f"{label} is not what it was"
        for label, name in now.items()
        if not _is_pending(name, pending) and (label not in before or before[label] != _hash(name))
    ]
    return settings + inputs + [f"{label} is no longer read" for label in before if label not in now]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _changes(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, old, new) for every value that differs between two trees of JSON."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _changes(f"{key}.{name}".strip("."), old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for first, second in zip(old, new, strict=True):
            yield from _changes(key, first, second)
    elif old != new:
        yield key or "settings", old, new


def _settings(stage: Stage) -> Any:
    return json.loads(json.dumps(stage.settings))


def _inputs(stage: Stage, folder: Path) -> dict[str, str]:
    return {_label(name, folder): _hash(name) for name in stage.inputs}


def _label(name: str, folder: Path) -> str:
    """Return an input's name; within the run directory relative to it, so that the directory may be moved."""
    path = Path(name)
    return path.relative_to(folder.resolve()).as_posix() if path.is_relative_to(folder.resolve()) else name


def _hash(name: str) -> str:
    """Return the SHA-256 of a file, or of a folder without its logs; a name on a hub counts as itself."""
    path = Path(name)
    if not path.exists():
        return HUB_NAME
    if path.is_file():
        return _file_hash(path, *_identity_numbers(path))
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in LOGS)
    lines = (f"{file.relative_to(path).as_posix()} {_file_hash(file, *_identity_numbers(file))}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _file_hash(path: Path, inode: int, size: int, modified: int) -> str:
    """Hash a file once: every later stage asks for the same gigabytes of a model again."""
    return sha256_of(path)


def _identity_numbers(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _identity(path: Path) -> list[int] | None:
    return list(_identity_numbers(path)) if path.exists() else None


# --- running --------------------------------------------------------------------------------------------------------


def plan(stages: Sequence[Stage], folder: Path) -> Iterator[str]:
    """Yield a line for every stage with its state, and with those of its files that neither are there nor will be."""
    made: set[Path] = set()
    for number, (stage, state) in enumerate(_states(stages, folder), start=1):
        absent = [
            name for name in stage.inputs if is_file(name) and not (Path(name).exists() or _is_pending(name, made))
        ]
        made |= set(stage.outputs)
        yield f"{_head(number, stages)} - {state}" + (f"; not there: {', '.join(absent)}" if absent else "")


def _head(number: int, stages: Sequence[Stage]) -> str:
    stage = stages[number - 1]
    return f"[{number}/{len(stages)}] {stage.name}: {stage.what}"


def unfinished(stages: Sequence[Stage], folder: Path) -> set[str]:
    """Return the names of the stages that are not done."""
    return {stage.name for stage, state in _states(stages, folder) if state != "done"}


def check_may_run(stages: Sequence[Stage], folder: Path, overwrite: bool) -> None:
    """Refuse a run that would replace what was made with other settings or inputs.

    Raises:
        UserError: there is such an output, and no `overwrite`; the message says what differs.
    """
    for stage, state in _states(stages, folder):
        if state == "changed" and not (overwrite or stage.follows):
            raise _refusal(stage, folder)


def _refusal(stage: Stage, folder: Path) -> UserError:
    differences = _differences(stage, folder, read_stamp(folder)["stages"].get(stage.name))
    more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
    output = next(path for path in stage.outputs if path.exists())
    return UserError(
        f"{output}: stage {stage.name!r} would make another one ({differences[0]}{more}); "
        "pass --overwrite to replace it, or choose another --output-dir"
    )


def run_stages(stages: Sequence[Stage], folder: Path, overwrite: bool, say: Callable[[str], None]) -> None:
    """Run the stages that are not done, in order, stamping each.

    Raises:
        UserError: outputs were made of other inputs or settings and may not be overwritten.
    """
    for number, stage in enumerate(stages, start=1):
        stamp = read_stamp(folder)
        state = state_of(stage, folder, stamp)
        if state == "done":
            if _differences(stage, folder, stamp["stages"].get(stage.name)):
                _stamp(folder, stage, stamp["begun"]["inputs"], {}, None)
            say(f"{_head(number, stages)} - done already")
            continue
        if state == "changed" and not (overwrite or stage.follows):
            raise _refusal(stage, folder)
        say(_head(number, stages))
        # Outputs that are there and still to do were left by an attempt that had the permission to replace them.
        _run_one(stage, folder, overwrite or all(path.exists() for path in stage.outputs), say)


def _run_one(stage: Stage, folder: Path, overwrite: bool, say: Callable[[str], None]) -> None:
    # Hashed before: an input that changes meanwhile must not pass for what was read.
    inputs = _inputs(stage, folder)
    stamp = read_stamp(folder)
    before = {_label(str(path), folder): _identity(path) for path in stage.outputs}
    begun = {"stage": stage.name, "settings": _settings(stage), "inputs": inputs, "before": before}
    write_json(folder / STAMP_FILE, stamp | {"begun": begun})
    start = time.perf_counter()
    figures = stage.run(overwrite)
    seconds = time.perf_counter() - start
    _stamp(folder, stage, inputs, figures, seconds)
    told = [f"{name} {_plain(value)}" for name, value in figures.items() if name != "seed" and value not in ({}, 0)]
    say(f"      {seconds:.0f} s" + (f" - {', '.join(told)}" if told else ""))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{number} {key}" for key, number in value.items())
    return str(value)


def _stamp(
    folder: Path, stage: Stage, inputs: Mapping[str, str], figures: dict[str, Any], seconds: float | None
) -> None:
    """Record a finished stage; seconds is None where an interrupt came between its end and this record."""
    stamp = read_stamp(folder)
    stamp.pop("begun", None)
    stamp |= provenance(gpus=True)
    stages = stamp.pop("stages")
    stages[stage.name] = {
        "settings": _settings(stage),
        "inputs": dict(inputs),
        "figures": figures,
        "seconds": None if seconds is None else round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / STAMP_FILE, stamp | {"stages": stages})
