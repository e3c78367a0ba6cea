"""The catalogue of engines, which translate sources to candidates, and the choice of one.

A new engine is one row of ENGINES, and one module with an `Engine` and a function that loads it. No library that runs
models is imported here: the functions of a row import their modules when they are called.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtcpo.core.errors import UserError, choose
from mtcpo.core.progress import Progress, note
from mtcpo.data.records import Segment
from mtcpo.data.rows import peek
from mtcpo.models.config import DEFAULT_OPTIONS, ModelOptions, TranslationDType
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.decoding import searches_of
from mtcpo.translation.engines.base import UNKNOWN_JOB, Engine, EngineRefused, Job, LoadRequest

if TYPE_CHECKING:
    from mtcpo.models.loading import LoadedModel

WORTHWHILE = 512
"""Sources of a job from which `auto` looks for a faster engine: for fewer, converting a model and comparing its outputs
saves little, or costs time."""


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A row of ENGINES.

    title, help: for people; help is one line on what it is good for. why_not: why the engine cannot run a model, or
    None. why_not_search: why it cannot search or sample as configured, or None. why_slow: why `auto` should leave it to
    another engine, or None. packages: modules that must be installed. install: the command that installs them.
    automatic: whether `auto` may take it, which calls for a proof before its first use.
    """

    title: str
    help: str
    loader: Callable[[LoadRequest], Engine]
    why_not: Callable[[str | LoadedModel, ModelOptions], str | None] = lambda model, options: None
    why_not_search: Callable[[TranslateConfig], str | None] = lambda config: None
    why_slow: Callable[[TranslateConfig], str | None] = lambda config: None
    packages: tuple[str, ...] = ()
    install: str = ""
    automatic: bool = False

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        # Looked for, not imported: that takes seconds, and may start a GPU.
        return list(itertools.filterfalse(importlib.util.find_spec, self.packages))

    def objection(self, request: LoadRequest, job: Job) -> str | None:
        """Return why the engine cannot do a job with a model, or None; nothing is loaded to find out."""
        if missing := self.missing():
            return f"{', '.join(missing)} is not installed ({self.install})"
        return self.why_not(request.model, request.options) or self.why_no_search(job.decodings)

    def why_no_search(self, decodings: Sequence[TranslateConfig]) -> str | None:
        """Return why one of the searches of decoders is impossible, or None."""
        return _first_reason(self.why_not_search, decodings)

    def objection_of_auto(self, request: LoadRequest, job: Job) -> str | None:
        """Return why `auto` does not take the engine for a job, or None."""
        return self.objection(request, job) or _first_reason(self.why_slow, job.decodings)


def _first_reason(
    reason_against: Callable[[TranslateConfig], str | None], decodings: Sequence[TranslateConfig]
) -> str | None:
    """Return the first reason against one of the searches of decoders, or None."""
    searches = itertools.chain.from_iterable(map(searches_of, decodings))
    return next(filter(None, map(reason_against, searches)), None)


# --- the engines ------------------------------------------------------------------------------------------------------


def _load_transformers(request: LoadRequest) -> Engine:
    from mtcpo.models.loading import load_model
    from mtcpo.translation.engines.transformers import GenerateEngine

    model = request.model
    # int8 has another engine, see `check_engine`.
    assert request.dtype != "int8"
    loaded = load_model(model, request.dtype, request.options) if isinstance(model, str) else model
    return GenerateEngine(loaded, request.system, request.on_batch)


def _later(module: str, function: str) -> Callable[..., Any]:
    """Return a function of an engine's module, which is imported when the function is called."""

    def call(*arguments: Any) -> Any:
        return getattr(importlib.import_module(f"{__package__}.{module}"), function)(*arguments)

    return call


# The fastest first; the last is available in every installation.
ENGINES = {
    "vllm": EngineKind(
        "vLLM", "decoder-only models on GPUs: greedy search and sampling", _later("vllm", "load"),
        _later("vllm", "why_not"), _later("vllm", "why_not_search"), packages=("vllm",),
        install="pip install 'mtcpo[vllm]'",
    ),
    "ctranslate2": EngineKind(
        "CTranslate2", "most encoder-decoders and many decoder-only models, faster",
        _later("ctranslate2", "load"), _later("ctranslate2", "why_not"), _later("ctranslate2", "why_not_search"),
        _later("ctranslate2", "why_slow"), packages=("ctranslate2",), install="pip install 'mtcpo[ct2]'",
        automatic=True,
    ),
    "transformers": EngineKind(
        "transformers", "`generate` of transformers: every model that mtcpo trains", _load_transformers
    ),
}  # fmt: skip


def engine_kind(name: str) -> EngineKind:
    """Return a row of ENGINES, after checking that its packages are installed.

    Raises:
        UserError: there is no such engine, or a package that it needs is missing.
    """
    if name not in ENGINES:
        raise choose("engine", name, ["auto", *ENGINES])
    kind = ENGINES[name]
    if missing := kind.missing():
        raise UserError(f"engine {name} needs {', '.join(missing)}: {kind.install}, or choose the engine transformers")
    return kind


def check_engine(
    name: str, dtype: TranslationDType = "auto", decodings: Sequence[TranslateConfig] = ()
) -> EngineKind | None:
    """Return the row of an engine, None for "auto"; to be called before long work begins.

    Raises:
        UserError: as `engine_kind`, or the engine does not have the precision or a search of `decodings`.
    """
    # Before what is missing: nobody should install an engine that is then refused.
    if dtype == "int8" and name not in ("auto", "ctranslate2"):
        raise UserError(
            f"dtype int8 needs the engine ctranslate2, not {name}; choose that engine, or float32, bfloat16 or float16"
        )
    if name == "auto" and dtype != "int8":
        return None
    kind = engine_kind("ctranslate2" if dtype == "int8" else name)
    if reason := kind.why_no_search(decodings):
        raise UserError(f"{reason}; choose another engine, such as transformers")
    return kind


# --- the choice -------------------------------------------------------------------------------------------------------


def look_ahead(
    segments: Iterable[Segment], decoding: TranslateConfig, sources: int | None = None
) -> tuple[Job, Iterator[Segment]]:
    """Read as many sources as the choice of an engine needs; return the job, and an iterator over all segments."""
    first, every = peek(segments, WORTHWHILE)
    return Job([decoding], first, sources), every


def load_engine(
    model: str | LoadedModel,
    system: str,
    dtype: TranslationDType = "auto",
    options: ModelOptions = DEFAULT_OPTIONS,
    on_batch: Callable[[int], object] = lambda sources: None,
    job: Job = UNKNOWN_JOB,
) -> Engine:
    """Return the engine that `options` name, with its model; the other arguments are the fields of `LoadRequest`.

    Raises:
        UserError: there is no such engine, it is not installed, cannot do the job or was refused, or the model cannot
            be loaded. `auto` takes transformers instead.
    """
    return _choose(LoadRequest(model, system, dtype, options, on_batch, job.sample()), job)[0]


@contextmanager
def open_engine(
    model: str | LoadedModel,
    system: str,
    dtype: TranslationDType = "auto",
    options: ModelOptions = DEFAULT_OPTIONS,
    job: Job = UNKNOWN_JOB,
) -> Iterator[Engine]:
    """Load an engine as `load_engine`, say which and why, and show a progress bar while the block runs."""
    name = model if isinstance(model, str) else model.name
    with Progress(f"translating with {Path(name).name}", job.sources, "sources") as progress:
        request = LoadRequest(model, system, dtype, options, progress.update, job.sample())
        engine, reason = _choose(request, job)
        note(f"translating with {engine.label}{f': {reason}' if reason else ''}")
        yield engine


def _choose(request: LoadRequest, job: Job) -> tuple[Engine, str]:
    """Return the engine for a job, and why it is this one."""
    named = check_engine(request.options.engine, request.dtype)
    if named is not None:
        if objection := named.objection(request, job):
            raise UserError(f"{objection}; choose another engine, such as transformers")
        engine = named.loader(request)
        return engine, engine.proof
    if reason := _why_transformers(request, job):
        return ENGINES["transformers"].loader(request), reason
    # Never a reduced precision, even on a GPU, where transformers takes bfloat16.
    exact = replace(request, dtype="float32")
    objections = []
    for kind in filter(attrgetter("automatic"), ENGINES.values()):
        # First what can be known without loading the model.
        objection = kind.objection_of_auto(exact, job)
        try:
            if objection is None:
                engine = kind.loader(exact)
                return engine, engine.proof
        except EngineRefused as error:
            # Other errors are the user's, such as a model that does not exist: transformers would raise them too.
            objection = str(error)
        objections.append(objection)
    return ENGINES["transformers"].loader(request), "; ".join(objections)


def _why_transformers(request: LoadRequest, job: Job) -> str:
    """Return why `auto` need not look for a faster engine, or ""."""
    if not isinstance(request.model, str):
        # In training it changes from one evaluation to the next, and would be converted each time.
        return "the model is in memory"
    if len(job.first) < WORTHWHILE:
        return f"for fewer than {WORTHWHILE} sources, converting the model hardly pays"
    if request.dtype not in ("auto", "float32"):
        return f"other engines are only proven in float32, not in {request.dtype}"
    return ""
