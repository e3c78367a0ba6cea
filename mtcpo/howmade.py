"""How a run was made, as a page shows it: stages, versions, hashes and settings out of JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mtcpo.figures import spoken


def with_command(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what made an evaluation, its command as it is typed."""
    return dict(made) | ({"command": shlex.join(made["command"])} if "command" in made else {})


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage of a run as the page shows it. inputs: (name, sha256). settings: as JSON."""

    name: str
    seconds: str
    figures: str
    inputs: tuple[tuple[str, str], ...]
    settings: str


def stages_of(stamp: Mapping[str, Any]) -> tuple[StageView, ...]:
    """Return the stages of stamp.json: how long each took, what it counted, what it was given."""
    return tuple(
        StageView(
            name=name,
            seconds="" if stage.get("seconds") is None else f"{stage['seconds']:,.1f}",
            figures="; ".join(_counted(stage.get("figures", {}))),
            inputs=tuple(stage.get("inputs", {}).items()),
            settings=json.dumps(stage.get("settings"), ensure_ascii=False, indent=2),
        )
        for name, stage in stamp.get("stages", {}).items()
    )


def _counted(figures: Mapping[str, Any]) -> Iterable[str]:
    """Say what a stage counted; of what there is none of, nothing is said."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            if value:
                yield f"{spoken(name)}: " + ", ".join(_counted(value))
        elif name == "seed":
            yield f"seed {value}"
        elif value:
            yield f"{spoken(name)} {value:,}" if isinstance(value, int) else f"{spoken(name)} {value}"


def without_plots(prefs: Mapping[str, Any]) -> dict[str, Any]:
    """Return prefs-report.json without what is drawn on a page and not read as a figure."""
    return {key: value for key, value in prefs.items() if key not in ("histograms", "examples")}


def flatten(value: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return a nested object as groups of (name, text): the scalars at the top, then one group for each object."""
    groups: dict[str, list[tuple[str, str]]] = {"": []}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            groups[key] = list(_leaves(item, ""))
        else:
            groups[""].append((key, _plain(item)))
    return {name: rows for name, rows in groups.items() if rows}


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(item)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
