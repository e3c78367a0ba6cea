"""The catalogue of engines, which translate sources to candidates.

A new engine is one row of ENGINES, and one module with an `Engine` and a function that loads it. No library that runs
models is imported here: loaders import their modules when they are called.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtcpo.core.errors import UserError, choose
from mtcpo.core.progress import Progress
from mtcpo.models.config import DEFAULT_OPTIONS, DType, ModelOptions
from mtcpo.translation.engines.base import Engine, LoadRequest

if TYPE_CHECKING:
    from mtcpo.models.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A row of ENGINES.

    title, help: for people; help is one line on what it is good for. packages: modules that must be installed. install:
    the command that installs them.
    """

    title: str
    help: str
    loader: Callable[[LoadRequest], Engine]
    packages: tuple[str, ...] = ()
    install: str = ""


def _load_transformers(request: LoadRequest) -> Engine:
    from mtcpo.models.loading import load_model
    from mtcpo.translation.engines.transformers import GenerateEngine

    model = request.model
    loaded = load_model(model, request.dtype, request.options) if isinstance(model, str) else model
    return GenerateEngine(loaded, request.system, request.on_batch)


# The first is available in every installation.
ENGINES = {
    "transformers": EngineKind(
        "transformers", "`generate` of transformers: every model that mtcpo trains", _load_transformers
    ),
}


def engine_kind(name: str) -> EngineKind:
    """Return a row of ENGINES, after checking that its packages are installed.

    Raises:
        UserError: there is no such engine, or a package that it needs is missing.
    """
    if name not in ENGINES:
        raise choose("engine", name, ENGINES)
    kind = ENGINES[name]
    missing = [package for package in kind.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"engine {name} needs {', '.join(missing)}: {kind.install}")
    return kind


def load_engine(
    model: str | LoadedModel,
    system: str,
    dtype: DType = "auto",
    options: ModelOptions = DEFAULT_OPTIONS,
    on_batch: Callable[[int], object] = lambda sources: None,
) -> Engine:
    """Return the engine that `options` name, with its model; the arguments are the fields of `LoadRequest`.

    Raises:
        UserError: as `engine_kind`, or the model cannot be loaded.
    """
    return engine_kind(options.engine).loader(LoadRequest(model, system, dtype, options, on_batch))


@contextmanager
def open_engine(
    model: str | LoadedModel,
    system: str,
    dtype: DType = "auto",
    options: ModelOptions = DEFAULT_OPTIONS,
    sources: int | None = None,
) -> Iterator[Engine]:
    """Load an engine as `load_engine`, with a progress bar over `sources` while the block runs."""
    name = model if isinstance(model, str) else model.name
    with Progress(f"translating with {Path(name).name}", sources, "sources") as progress:
        yield load_engine(model, system, dtype, options, progress.update)
