"""Provenance of a run, as the pages show it: stages, versions, settings, and any JSON object as groups of values."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mtcpo.report.wording import humanize


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage of a run as the page shows it. inputs: (name, sha256). settings: as JSON."""

    name: str
    seconds: str
    figures: str
    inputs: tuple[tuple[str, str], ...]
    settings: str


def stage_views(stamp: Mapping[str, Any]) -> tuple[StageView, ...]:
    """Return the stages of stamp.json: duration, counts, inputs and settings of each."""
    views = []
    for name, stage in stamp.get("stages", {}).items():
        seconds = stage.get("seconds")
        views.append(
            StageView(
                name=name,
                seconds="" if seconds is None else f"{seconds:,.1f}",
                figures="; ".join(_counts_in_words(stage.get("figures", {}))),
                inputs=tuple(stage.get("inputs", {}).items()),
                settings=json.dumps(stage.get("settings"), ensure_ascii=False, indent=2),
            )
        )
    return tuple(views)


def _counts_in_words(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield a stage's counts in words; zeros and empty groups are left out."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            if value:
                yield f"{humanize(name)}: {', '.join(_counts_in_words(value))}"
        elif name == "seed":
            # Not a count: a seed of 0 is shown too, and without thousands separators.
            yield f"seed {value}"
        elif value:
            number = f"{value:,}" if isinstance(value, int) else str(value)
            yield f"{humanize(name)} {number}"


def with_command_line(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return the "made" part of evaluation.json, with its command as one would type it."""
    if "command" not in made:
        return dict(made)
    return {**made, "command": shlex.join(made["command"])}


def flatten(value: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Flatten a nested object to groups of (name, text): top-level scalars first, then one group for each object."""
    groups: dict[str, list[tuple[str, str]]] = {"": []}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            groups[key] = list(_leaves(item, ""))
        else:
            groups[""].append((key, _as_text(item)))
    return {name: rows for name, rows in groups.items() if rows}


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _as_text(item)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
