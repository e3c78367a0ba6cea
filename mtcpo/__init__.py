"""Preference training of machine-translation models: build triplets, train with CPO, evaluate on WMT.

The public names are imported when they are first used: the trainer needs torch, and torch takes seconds to import.
docs/api.md shows how they work together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mtcpo.core.version import __version__

if TYPE_CHECKING:
    from mtcpo.api.functions import build_preferences, evaluate
    from mtcpo.api.trainer import PreferenceTrainer
    from mtcpo.core.errors import UserError
    from mtcpo.data.records import Candidate, Segment, Triplet

__all__ = [
    "Candidate",
    "PreferenceTrainer",
    "Segment",
    "Triplet",
    "UserError",
    "__version__",
    "build_preferences",
    "evaluate",
]

_MODULES = {
    "Candidate": "mtcpo.data.records",
    "PreferenceTrainer": "mtcpo.api.trainer",
    "Segment": "mtcpo.data.records",
    "Triplet": "mtcpo.data.records",
    "UserError": "mtcpo.core.errors",
    "build_preferences": "mtcpo.api.functions",
    "evaluate": "mtcpo.api.functions",
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
