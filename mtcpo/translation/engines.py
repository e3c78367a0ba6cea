"""The one place where an engine is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtcpo.core.progress import bar
from mtcpo.models.config import DEFAULT_OPTIONS, DType, ModelOptions
from mtcpo.models.loading import load_model
from mtcpo.translation.generate import GenerateEngine


@contextmanager
def open_engine(
    name: str,
    system: str,
    dtype: DType = "auto",
    options: ModelOptions = DEFAULT_OPTIONS,
    sources: int | None = None,
) -> Iterator[GenerateEngine]:
    """Load a model as an engine, with a progress bar over `sources` while the block runs."""
    loaded = load_model(name, dtype, options)
    with bar(f"translating with {Path(name).name}", sources, "sources") as progress:
        yield GenerateEngine(loaded, system, progress.update)
