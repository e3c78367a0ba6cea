"""How much a command says while it works: progress of long stages, notes, and libraries' messages, all on stderr.

Progress is a bar on a terminal, and a line a minute elsewhere (log files, CI, nohup). A stage of less than five seconds
shows nothing.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self, TypeVar

from tqdm import tqdm

from mtcpo.core.errors import UserError
from mtcpo.core.processes import is_first_process

SHOWN_AFTER = 5.0
"""Seconds that a stage takes before it shows progress."""

LINE_EVERY = 60.0
"""Seconds between two lines where stderr is not a terminal."""

TICK = 1.0
"""Seconds after which a bar is drawn again although nothing was counted."""

Item = TypeVar("Item")


# --- how much is said -------------------------------------------------------------------------------------------------


class Verbosity(Enum):
    """How much is said besides results and errors."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


@dataclass(slots=True)
class _State:
    """What all stages of this process share. open: the stages under way, innermost last."""

    verbosity: Verbosity = Verbosity.NORMAL
    open: list[Progress] = field(default_factory=list)


_state = _State()


def set_verbosity(quiet: bool = False, verbose: bool = False) -> None:
    """Set how much is said from now on: no progress and no notes, or also settings, timings and libraries' messages.

    Raises:
        UserError: both are set.
    """
    if quiet and verbose:
        raise UserError("--quiet and --verbose exclude each other; give one of them")
    _state.verbosity = Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL
    # Our own warnings are notes.
    logging.getLogger("mtcpo").setLevel(logging.ERROR if quiet else logging.NOTSET)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


def is_quiet() -> bool:
    """Whether only results and errors are wanted."""
    return _state.verbosity is Verbosity.QUIET


def note(text: str) -> None:
    """Print a line on stderr, unless --quiet; bars make room for it. Only the first process prints."""
    if not is_quiet() and is_first_process():
        tqdm.write(text, file=sys.stderr)


def detail(text: str) -> None:
    """Print a line on stderr with --verbose."""
    if _state.verbosity is Verbosity.VERBOSE:
        note(text)


def quiet_libraries() -> None:
    """Silence loading bars and advisory warnings of transformers, accelerate, torch and peft; not with --verbose."""
    import warnings

    from transformers.utils import logging as transformers_logging

    if _state.verbosity is Verbosity.VERBOSE:
        from huggingface_hub import constants

        transformers_logging.set_verbosity_info()
        detail(f"models and tokenizers from the hub: {constants.HF_HUB_CACHE}")
        return
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    # For example about pin_memory without a GPU: advice for people who call torch themselves.
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|peft)(\.|$)")


# --- progress ---------------------------------------------------------------------------------------------------------


class Progress:
    """The progress of one stage.

    As a context manager, it is also shown while nothing is counted, such as during the loading of a model.
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        unit: str = "items",
        initial: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin a stage.

        Args:
            description: what is done, such as "translating with mt5-small".
            total: number of items, those done earlier included; None: unknown.
            unit: what is counted, in the plural; "": nothing, such as while a model is loaded.
            initial: items that were done before, which say nothing about speed.
            clock: returns seconds.
        """
        self.description, self.total, self.unit = description, total, unit
        self.done = self._initial = initial
        self.figures: dict[str, float] = {}
        """Shown behind the counts, such as the loss; by name."""
        self._clock = clock
        self._started = self._last_line = clock()
        self._is_shown = not is_quiet() and is_first_process()
        self._bar: tqdm[Any] | None = None
        # Of the thread that counts and the one that redraws.
        self._lock = threading.RLock()
        self._closed = threading.Event()

    def update(self, count: int = 1) -> None:
        """Count items that were just done."""
        with self._lock:
            self.done += count
            if self._bar is not None:
                self._bar.update(count)
            elif self._is_shown:
                self._show()

    def skip(self, count: int) -> None:
        """Count items that an earlier, interrupted command did: they are done, but say nothing about speed."""
        with self._lock:
            self._initial += count
            self.done += count
            if self._bar is not None:
                self._bar.initial += count
                self._bar.n += count
                self._bar.last_print_n += count

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items and count each when the next one is asked for; the stage ends with the last."""
        for item in items:
            yield item
            self.update()
        self.close()

    def show_figures(self, figures: dict[str, float]) -> None:
        """Replace the figures that are shown."""
        with self._lock:
            self.figures = figures
            if self._bar is not None:
                self._bar.set_postfix(_formatted(figures), refresh=False)

    def close(self) -> None:
        """End the stage: remove the bar."""
        if self._closed.is_set():
            return
        self._closed.set()
        with self._lock:
            self._is_shown = False
            if self._bar is not None:
                self._bar.close()
                self._bar = None
        if self.done > self._initial:
            counted = _counted(self.done - self._initial, None, self.unit)
            detail(f"{self.description}: {counted} in {_duration(self._clock() - self._started)}")

    def __enter__(self) -> Self:
        _state.open.append(self)
        if self._is_shown:
            threading.Thread(target=self._redraw, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        _state.open.remove(self)
        self.close()

    def _redraw(self) -> None:
        while not self._closed.wait(TICK):
            with self._lock:
                if self._is_shown:
                    self._show()

    def _show(self) -> None:
        """Draw the bar, or print a line if one is due."""
        now = self._clock()
        if now - self._started < SHOWN_AFTER:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = self._new_bar(now - self._started)
            self._bar.refresh()
        elif now - self._last_line >= LINE_EVERY:
            self._last_line = now
            tqdm.write(self.line(now - self._started), file=sys.stderr)

    def _new_bar(self, seconds: float) -> tqdm[Any]:
        # Delayed for a moment, so that nothing is drawn before the bar knows what was done in the seconds before it.
        bar = tqdm(
            total=self.total, desc=self.description, unit=f" {self.unit}", initial=self._initial, delay=1e-9,
            leave=False, dynamic_ncols=True, file=sys.stderr, bar_format=None if self.unit else "{desc}: {elapsed}",
        )  # fmt: skip
        bar.delay = 0
        bar.n = bar.last_print_n = self.done
        bar.start_t -= seconds
        bar.set_postfix(_formatted(self.figures), refresh=False)
        return bar

    def line(self, seconds: float) -> str:
        """Return the line that stands for a bar: what, done of all, rate, time left. seconds: since the stage began."""
        if not self.unit:
            return f"{self.description}: {_duration(seconds)} so far"
        parts = [_counted(self.done, self.total, self.unit)]
        rate = (self.done - self._initial) / seconds if seconds else 0.0
        if rate:
            parts.append(f"{rate:,.3g} {self.unit}/s" if rate < 1000 else f"{rate:,.0f} {self.unit}/s")
        if rate and self.total is not None:
            parts.append(f"{_duration((self.total - self.done) / rate)} left")
        parts += [f"{name} {value}" for name, value in _formatted(self.figures).items()]
        return f"{self.description}: {', '.join(parts)}"


def under_way() -> Progress:
    """Return the innermost stage under way; one that nobody sees if there is none."""
    return _state.open[-1] if _state.open else Progress("")


def _counted(done: int, total: int | None, unit: str) -> str:
    return f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"


def _formatted(figures: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.3g}" for name, value in figures.items()}


def _duration(seconds: float) -> str:
    """Return a time as people say it: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
