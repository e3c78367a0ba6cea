"""Two processes that train together over gloo, and looks at the processes of this machine.

The two are forked from a server that has imported torch, transformers and peft once.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import socket
import subprocess
import time
import traceback
from pathlib import Path

from support.timing import HANGS

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["mtcpo.training.train", "peft", "torch.distributed.fsdp", "torch.distributed.checkpoint"]
)


def free_port():
    """A port of this machine that nothing listens to."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def allow_sharding_on_cpu():
    """Let accelerate shard over CPUs: it could over any device, but checks first that there is a GPU."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def _call_in_process(function, args, rank, environment, setup, output):
    os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    with output.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = 1
        # Before the limit of the caller: the traceback shows where a process waits for ever.
        faulthandler.dump_traceback_later(0.9 * HANGS, file=file)
        try:
            if setup is not None:
                setup()
            function(*args)
            code = 0
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
        file.flush()
        os._exit(code)  # destroying the process group would wait for the other process


def run_in_two_processes(folder, function, *args, setup=None, **environment):
    """Call a function of a module in two processes, which find each other by their environment.

    setup: called first in each. environment: variables that both have beside those of a launcher.

    Returns:
        The exit code and the output of each.
    """
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    environment |= {"LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    outputs = [folder / f"process-{rank}.txt" for rank in range(2)]
    processes = [
        SERVER.Process(target=_call_in_process, args=(function, args, rank, environment, setup, output))
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + HANGS
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
    return [
        (process.exitcode, output.read_text(encoding="utf-8"))
        for process, output in zip(processes, outputs, strict=True)
    ]


def children_of(pid):
    """The process ids of the children of a process."""
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(text) for text in listed.stdout.split()]


def is_alive(pid):
    """Whether a process runs; one that has ended and is not waited for yet (a zombie) does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
