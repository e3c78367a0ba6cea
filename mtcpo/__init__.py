"""Preference training of machine-translation models: build triplets, train with CPO, evaluate on WMT.

`PreferenceTrainer`, `build_preferences` and `evaluate` are for notebooks (docs/api.md); they are imported when they are
first asked for, since torch takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mtcpo.core.version import __version__

if TYPE_CHECKING:
    from mtcpo.api.functions import build_preferences, evaluate
    from mtcpo.api.trainer import PreferenceTrainer

__all__ = ["PreferenceTrainer", "__version__", "build_preferences", "evaluate"]


def __getattr__(name: str) -> Any:
    if name in ("build_preferences", "evaluate"):
        from mtcpo.api import functions as api

        return getattr(api, name)
    if name == "PreferenceTrainer":
        from mtcpo.api.trainer import PreferenceTrainer

        return PreferenceTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
