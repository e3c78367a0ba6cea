"""The program of a scoring process, see `runner.Worker`: a JSON line in, a JSON line out, until the input ends.

It runs in an interpreter that may lack every dependency of mtcpo: tests/test_architecture.py says what it may import.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from queue import SimpleQueue
from threading import Thread
from typing import Any, BinaryIO

from mtcpo.core.errors import UserError
from mtcpo.metrics.comet.loading import environment
from mtcpo.metrics.comet.runner import Job, make_engine


def main() -> None:
    """Answer questions until the parent process is gone."""
    # Ctrl-C is for the parent, which then ends this process by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that output of other packages does not mix with the answers
    questions: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(sys.stdin.buffer, questions), daemon=True).start()
    engine = None
    while True:
        question = json.loads(questions.get())
        try:
            if question["question"] == "load":
                engine = _load(**question)
                answer: Any = None
            elif question["question"] == "score":
                assert engine is not None
                answer = asdict(engine.predict(list(map(tuple, question["rows"]))))
            else:
                answer = asdict(environment())
            reply = {"answer": answer}
        except UserError as error:
            reply = {"mistake": str(error)}
        except Exception:
            reply = {"fault": traceback.format_exc()}
        answers.write(json.dumps(reply).encode() + b"\n")
        answers.flush()


def _listen(source: BinaryIO, questions: SimpleQueue[bytes]) -> None:
    """Queue questions; when the input ends, end the process, whatever it is doing."""
    for line in source:
        questions.put(line)
    # Standard input closes when the parent ends or is killed. sys.exit would end only this thread.
    os._exit(0)


def _load(job: dict[str, Any], device: str, processes: int, **_: Any) -> Any:
    import torch

    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        # Otherwise each process would start a thread for every core.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    return make_engine(Job(**job), device)
