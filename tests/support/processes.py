"""Two processes that train together over gloo, forked from a server that has imported the libraries once."""

import contextlib
import faulthandler
import multiprocessing
import os
import socket
import subprocess
import time
import traceback
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["mtcpo.training.train", "peft", "torch.distributed.fsdp", "torch.distributed.checkpoint"]
)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def be_sharded():
    """Let accelerate shard over CPUs: it does so over any device, but asks for a kind other than CPU first."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def _be_one(function, args, rank, environment, setup, output, seconds):
    os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    with output.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = 1
        faulthandler.dump_traceback_later(seconds - 5, file=file)  # where a process waits for ever
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
        os._exit(code)  # without a wait for the other one


def run(folder, function, *args, setup=None, seconds=280, **environment):
    """Call a function of a module in two processes, which find each other by their environment.

    Returns:
        The exit code and the output of each.
    """
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    environment |= {"LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    outputs = [folder / f"process-{rank}.txt" for rank in range(2)]
    processes = [
        SERVER.Process(target=_be_one, args=(function, args, rank, environment, setup, output, seconds))
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + seconds
    try:
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
    return [
        (process.exitcode, output.read_text(encoding="utf-8"))
        for process, output in zip(processes, outputs, strict=True)
    ]


FILES = "--source s.de --reference r.en --hyp a=a.en --hyp b=b.en --src-lang de --tgt-lang en"


def children_of(pid):
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(text) for text in found.stdout.split()]


def is_alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
