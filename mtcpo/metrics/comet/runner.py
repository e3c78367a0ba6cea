"""Runners: score rows in this process, or in worker processes (one per GPU) of any environment's interpreter.

The caller groups rows into blocks. Each block is scored separately, so that its scores depend neither on the number of
processes nor on other blocks.
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

# Only this package comes from here; the other interpreter must have everything else. The empty entry of the path is
# the working directory. It is removed before the first import: a json.py there would be executed.
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
    """What to score with: checkpoint file, precision (a key of DTYPES), and padded tokens in a batch or None."""

    checkpoint: str
    precision: str
    batch_tokens: int | None = None


class Runner(Protocol):
    """Scores blocks of rows."""

    def predict(self, blocks: Sequence[Block]) -> list[Predictions]:
        """Return the scores and error spans of each block's rows; the model is loaded at the first call."""

    def open(self) -> None:
        """Load the model."""

    def close(self) -> None:
        """Release what `open` acquired: memory or processes."""


def make_engine(job: Job, device: str) -> Any:
    """Load a job's model onto a device, "cpu", "cuda" or "cuda:N"."""
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
        """Load the model."""
        if self._engine is None:
            self._engine = make_engine(self._job, self._device)

    def predict(self, blocks: Sequence[Block]) -> list[Predictions]:
        """Return the scores and error spans of each block's rows."""
        self.open()
        return list(map(self._engine.predict, blocks))

    def close(self) -> None:
        """Free the model."""
        self._engine = None


class Worker:
    """A process that scores. It ends with this process, even if that is killed, because its standard input closes."""

    def __init__(self, python: str) -> None:
        # Captured: only its last line goes into the error message; all of it would fill a terminal.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, stays open as long as the process
        self._python = python
        try:
            self._process = subprocess.Popen(
                [python, "-c", START, str(PACKAGE / "__init__.py"), str(PACKAGE)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=_environment_of(python),
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"--comet-python {python}: cannot be started ({error.strerror})") from None

    def ask(self, question: str, **what: Any) -> Any:
        """Return the worker's answer to "environment", "load" or "score", see `worker.main`.

        Raises:
            UserError: The worker raised one, or its process has ended.
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
            raise UserError(self._explain_end())
        answer = json.loads(line)
        if "mistake" in answer:
            raise UserError(answer["mistake"])
        if "fault" in answer:
            raise RuntimeError(f"in the scoring process of {self._python}:\n{answer['fault']}")
        return answer["answer"]

    def _explain_end(self) -> str:
        code = self._process.wait()
        if code < 0:
            return (
                f"a scoring process of {self._python} was killed ({Signals(-code).name}), perhaps for lack of memory; "
                "run the same command again to resume, with fewer comet.processes or comet.batch_tokens if that recurs"
            )
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", errors="replace").strip().splitlines() or ["no message"]
        return f"the scoring process of {self._python} ended (exit code {code}): {lines[-1]}"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()  # waits, and closes the pipes
        self._stderr.close()


def _environment_of(python: str) -> dict[str, str]:
    """Return the environment variables for an interpreter: another one must not find this one's packages."""
    variables = dict(os.environ)
    if python != sys.executable:
        variables.pop("PYTHONPATH", None)
        variables.pop("PYTHONHOME", None)
    return variables


class Workers:
    """Scores blocks in worker processes, each on its own GPU, or all on the CPU.

    environment: of the interpreter; the first worker is started to find out.
    """

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
        """Set the job and the number of processes, which the caller derives from `environment`."""
        self._job, self._processes = job, processes

    def open(self) -> None:
        """Start all the workers and load their models."""
        if self._open:
            return
        while len(self._workers) < self._processes:
            self._workers.append(Worker(self._python))
        with ThreadPoolExecutor(self._processes) as pool:
            try:
                list(pool.map(self._load, range(self._processes)))
            except BaseException:
                self.close()  # otherwise the pool would wait for the other answers
                raise
        self._open = True

    def _load(self, number: int) -> None:
        device = f"cuda:{number % self.environment.gpus}" if self.environment.gpus else "cpu"
        self._workers[number].ask("load", job=asdict(self._job), device=device, processes=self._processes)

    def predict(self, blocks: Sequence[Block]) -> list[Predictions]:
        """Return the scores and error spans of each block's rows; each block goes to a free worker."""
        self.open()
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            free.put(worker)

        def score(block: Block) -> Predictions:
            worker = free.get()
            try:
                answer = worker.ask("score", rows=list(block))
            finally:
                free.put(worker)
            if answer["spans"] is None:
                return Predictions(answer["scores"])
            return Predictions(answer["scores"], list(map(_spans_of_row, answer["spans"])))

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


def _spans_of_row(rows: Sequence[dict[str, Any]]) -> list[ErrorSpan]:
    return [ErrorSpan(**row) for row in rows]
