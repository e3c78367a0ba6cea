"""Which process this is, of how many that a launcher started together.

Launchers say so in the environment: `accelerate launch` and `torchrun` by RANK, Slurm's `srun` by SLURM_PROCID.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from mtcpo.core.errors import UserError

STARTED = time.time()
"""When this process started, nearly: commands import this module before they do anything."""


@dataclass(frozen=True, slots=True)
class Process:
    """One of `count` processes. rank: from 0. local_rank: from 0 on each machine; it chooses the GPU."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0


ALONE = Process()


def this_process() -> Process:
    """Return this process, as the launcher's variables describe it."""
    variables = os.environ
    if "RANK" in variables:
        rank = int(variables["RANK"])
        return Process(rank, int(variables.get("WORLD_SIZE", rank + 1)), int(variables.get("LOCAL_RANK", 0)))
    # Not SLURM_NTASKS, which `sbatch` sets too: its script is a single process, whatever the number of tasks.
    tasks = int(variables.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks > 1:
        return Process(int(variables["SLURM_PROCID"]), tasks, int(variables.get("SLURM_LOCALID", 0)))
    return ALONE


def is_first_process() -> bool:
    """Whether this is the only process or, under a launcher, rank 0, which prints and writes for all."""
    return this_process().rank == 0


def require_torch_launcher() -> None:
    """Refuse several processes that cannot exchange gradients: those of `srun` without torchrun.

    Raises:
        UserError: there are several processes, and torch.distributed would know of one.
    """
    process = this_process()
    if process.count > 1 and "RANK" not in os.environ:
        raise UserError(
            f"srun started {process.count} processes that cannot train together; start one for each machine "
            "(--ntasks-per-node=1), with torchrun or accelerate launch in it"
        )


def is_written_by_others(output: Path) -> bool:
    """Whether another process of this launch has already written a file: it is newer than this process."""
    return output.exists() and output.stat().st_mtime > STARTED
