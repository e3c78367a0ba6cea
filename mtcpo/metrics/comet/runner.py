"""Where the rows are scored: in this process, or in worker processes, one a GPU, in any environment's interpreter.

Rows come in blocks, which the caller makes: a block is scored by itself, so that its scores are the same wherever and
beside whatever else it is scored.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from signal import Signals
from typing import Any, Protocol

from mtcpo.core.errors import UserError
from mtcpo.core.resources import PACKAGE
from mtcpo.data.records import ErrorSpan
from mtcpo.metrics.comet.loading import Environment, load_model
from mtcpo.metrics.comet.spans import Predictions

Block = Sequence[tuple[str, ...]]
"""Rows of (source, translation[, reference])."""

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

# Only this package is taken from here; all else the other interpreter has to have itself. The empty entry of the
# path is the working directory, which goes before the first import: a json.py there would be executed.
START = """
import sys
sys.path[:] = [path for path in sys.path if path]
import importlib.util
spec = importlib.util.spec_from_file_location("mtcpo", sys.argv[1], submodule_search_locations=[sys.argv[2]])
sys.modules["mtcpo"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["mtcpo"])
from mtcpo.metrics.comet.worker import main
main()
"""


@dataclass(frozen=True)
class Job:
    """What to score with: a checkpoint file, a precision (a key of DTYPES), padded tokens in a batch or None."""

    checkpoint: str
    precision: str
    batch_tokens: int | None = None


class Runner(Protocol):
    """What scores blocks of rows."""

    def predict(self, blocks: Sequence[Block]) -> list[Predictions]:
        """Return what is found of each block's rows; the model is loaded at the first call."""

    def open(self) -> None:
        """Load the model now."""


def make_engine(job: Job, device: str) -> Any:
    """Load a job's model for a device."""
    import torch

    from mtcpo.metrics.comet.encoder import reduce_precision
    from mtcpo.metrics.comet.engine import engine_of
    from mtcpo.metrics.comet.packed import pack

    model = load_model(Path(job.checkpoint))
    if job.precision != "fp32":
        reduce_precision(model.encoder.model, getattr(torch, DTYPES[job.precision]))
    elif device == "cpu":
        pack(model.encoder.model)
    return engine_of(model.to(device), torch.device(device), job.batch_tokens)


class InProcess:
    """Scores in this process, on its first GPU or on the CPU."""

    def __init__(self, job: Job, device: str) -> None:
        self._job = job
        self._device = device
        self._engine: Any = None

    def open(self) -> None:
        """Load the model now."""
        if self._engine is None:
            self._engine = make_engine(self._job, self._device)

    def predict(self, blocks: Sequence[Block]) -> list[Predictions]:
        """Return what is found of each block's rows."""
        self.open()
        return [self._engine.predict(block) for block in blocks]


class Worker:
    """A process that scores. It ends when this process does, however that ends: then its standard input closes."""

    def __init__(self, python: str) -> None:
        # What it says on its way out is for our own message: a terminal gets one line.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115, open as long as the process
        self._python = python
        try:
            self._process = subprocess.Popen(
                [python, "-c", START, str(PACKAGE / "__init__.py"), str(PACKAGE)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=_environment_of(python),
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"--comet-python {python}: cannot be started ({error.strerror})") from None

    def ask(self, question: str, **what: Any) -> Any:
        """Return the worker's answer.

        Raises:
            UserError: what the worker raised as one, or it has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"question": question, **what}).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise UserError(self._why())
        answer = json.loads(line)
        if "mistake" in answer:
            raise UserError(answer["mistake"])
        if "fault" in answer:
            raise RuntimeError(f"in the scoring process of {self._python}:\n{answer['fault']}")
        return answer["answer"]

    def _why(self) -> str:
        code = self._process.wait()
        if code < 0:
            return (
                f"a scoring process of {self._python} was killed ({Signals(-code).name}), perhaps since memory ran "
                "out; repeat the command to go on, with fewer comet.processes or comet.batch_tokens if that recurs"
            )
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
        return f"the scoring process of {self._python} ended (exit code {code}): {lines[-1]}"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._said.close()


def _environment_of(python: str) -> dict[str, str]:
    """Return the variables for another interpreter: not the paths of this one's packages, unless it is this one."""
    ours = python == sys.executable
    return {name: value for name, value in os.environ.items() if ours or name not in ("PYTHONPATH", "PYTHONHOME")}


class Workers:
    """Scores blocks in worker processes, each on a GPU of its own, or all on the CPU."""

    def __init__(self, python: str) -> None:
        self._python = python
        self._workers = [Worker(python)]
        self._open = False
        try:
            self.environment = Environment(**self._workers[0].ask("environment"))
        except BaseException:
            self.close()
            raise

    def set_up(self, job: Job, processes: int) -> None:
        """Say what is to be scored with, and in how many processes."""
        self._job, self._processes = job, processes

    def open(self) -> None:
        """Start all the workers and load their models."""
        if self._open:
            return
        self._workers += [Worker(self._python) for _ in range(self._processes - len(self._workers))]
        with ThreadPoolExecutor(self._processes) as pool:
            try:
                list(pool.map(self._load, range(self._processes)))
            except BaseException:
                self.close()  # or the pool would wait for answers
                raise
        self._open = True

    def _load(self, number: int) -> None:
        device = f"cuda:{number % self.environment.gpus}" if self.environment.gpus else "cpu"
        self._workers[number].ask("load", job=asdict(self._job), device=device, processes=self._processes)

    def predict(self, blocks: Sequence[Block]) -> list[Predictions]:
        """Return what is found of each block's rows; whichever worker is free takes the next block."""
        self.open()
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            free.put(worker)

        def score(block: Block) -> Predictions:
            worker = free.get()
            try:
                found = worker.ask("score", rows=list(block))
            finally:
                free.put(worker)
            spans = found["spans"]
            return Predictions(found["scores"], spans and [[ErrorSpan(**span) for span in of_row] for of_row in spans])

        with ThreadPoolExecutor(self._processes) as pool:
            try:
                return list(pool.map(score, blocks))
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """End all the workers."""
        for worker in self._workers:
            worker.close()
        self._workers = []
