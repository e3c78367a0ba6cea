"""Stages of a run: find their states, plan, run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mtcpo.core.errors import UserError, standing
from mtcpo.core.progress import detail
from mtcpo.data.file_formats.registry import is_file
from mtcpo.pipeline.stamp import Stage, are_all_new, differences, is_pending, read_stamp, record_begin, record_end

State = Literal["done", "to do", "changed", "done, unless its inputs change"]
"""changed: its outputs exist, but were made from other inputs or settings. The last: an earlier stage will rebuild its
inputs, which may turn out to be the same."""


# --- what is done ---------------------------------------------------------------------------------------------------


def state_of(stage: Stage, folder: Path, stamp: Mapping[str, Any], pending: Collection[Path] = ()) -> State:
    """Return the state of a stage. pending: inputs that earlier stages will rebuild."""
    missing = stage.missing_outputs()
    if len(missing) == len(stage.outputs):
        return "to do"
    if not differences(stage, folder, stamp["stages"].get(stage.name), pending):
        if missing:
            return "to do"
        waits = any(is_pending(name, pending) for name in stage.inputs)
        return "done, unless its inputs change" if waits else "done"
    begun = stamp.get("begun")
    if not begun or begun["stage"] != stage.name or differences(stage, folder, begun, pending):
        return "changed"
    # It was interrupted, perhaps only between its last output and its stamp. Older outputs do not count.
    return "done" if are_all_new(stage, folder, begun) else "to do"


def _states(stages: Sequence[Stage], folder: Path) -> Iterator[tuple[Stage, State]]:
    stamp = read_stamp(folder)
    pending: set[Path] = set()
    for stage in stages:
        state = state_of(stage, folder, stamp, pending)
        if state != "done":
            pending |= set(stage.outputs)
        yield stage, state


def unfinished(stages: Sequence[Stage], folder: Path) -> set[str]:
    """Return the names of the stages that are not done."""
    return {stage.name for stage, state in _states(stages, folder) if state != "done"}


def plan(stages: Sequence[Stage], folder: Path) -> Iterator[str]:
    """Yield a line for every stage: its state, and input files that neither exist nor will be written."""
    made: set[Path] = set()
    for number, (stage, state) in enumerate(_states(stages, folder), start=1):
        absent = []
        for name in stage.inputs:
            # A name that cannot be a file is a name on a hub, which may exist.
            if is_file(name) and not Path(name).exists() and not is_pending(name, made):
                absent.append(name)
        made |= set(stage.outputs)
        yield f"{_head(number, stages)} - {state}" + (f"; missing: {', '.join(absent)}" if absent else "")


def _head(number: int, stages: Sequence[Stage]) -> str:
    stage = stages[number - 1]
    return f"[{number}/{len(stages)}] {stage.name}: {stage.summary}"


# --- running --------------------------------------------------------------------------------------------------------


def check_may_run(stages: Sequence[Stage], folder: Path, overwrite: bool) -> None:
    """Refuse a run that would replace outputs made with other settings or inputs.

    Raises:
        UserError: there are such outputs, and `overwrite` is off; the message says what differs.
    """
    for stage, state in _states(stages, folder):
        if state == "changed" and not (overwrite or stage.follows):
            raise _refusal(stage, folder)


def _refusal(stage: Stage, folder: Path) -> UserError:
    first, *others = differences(stage, folder, read_stamp(folder)["stages"].get(stage.name))
    more = f", and {len(others)} more" if others else ""
    missing = stage.missing_outputs()
    output = next(path for path in stage.outputs if path not in missing)
    return UserError(
        f"{output}: stage {stage.name!r} would write a different one ({first}{more}); "
        "pass --overwrite to replace it, or choose another --output-dir"
    )


def run_stages(stages: Sequence[Stage], folder: Path, overwrite: bool, say: Callable[[str], None]) -> None:
    """Run the unfinished stages in order, and stamp each.

    Raises:
        UserError: outputs were made from other inputs or settings and may not be overwritten.
    """
    for number, stage in enumerate(stages, start=1):
        stamp = read_stamp(folder)
        # Without `pending`: the inputs are final now, and may be unchanged.
        state = state_of(stage, folder, stamp)
        if state == "done":
            # Finished by an attempt that was interrupted before stamping.
            if differences(stage, folder, stamp["stages"].get(stage.name)):
                record_end(folder, stage, stamp["begun"]["inputs"], {}, None)
            say(f"{_head(number, stages)} - already done")
            continue
        if state == "changed" and not (overwrite or stage.follows):
            raise _refusal(stage, folder)
        with standing(partial("stage {} of {} ({})".format, number, len(stages), stage.name)):
            say(_head(number, stages))
            detail(f"      settings: {json.dumps(stage.settings, ensure_ascii=False)}")
            # If a stage is to do but its outputs exist, they are from an attempt that was allowed to replace them.
            _run(stage, folder, overwrite or not stage.missing_outputs(), say)


def _run(stage: Stage, folder: Path, overwrite: bool, say: Callable[[str], None]) -> None:
    inputs = record_begin(folder, stage)
    start = time.perf_counter()
    figures = stage.run(overwrite)
    seconds = time.perf_counter() - start
    record_end(folder, stage, inputs, figures, seconds)
    say(f"      {seconds:.0f} s{_format_figures(figures)}")


def _format_figures(figures: Mapping[str, Any]) -> str:
    """Return the figures for a stage's line, without seed, empty counts and zeros."""
    parts = []
    for name, value in figures.items():
        if name == "seed" or value in ({}, 0):
            continue
        if isinstance(value, dict):
            value = " ".join(f"{number} {key}" for key, number in value.items())
        parts.append(f"{name} {value}")
    return f" - {', '.join(parts)}" if parts else ""
