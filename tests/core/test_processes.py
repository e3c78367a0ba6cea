"""Which process this is, as launchers describe it."""

import os

import pytest

from mtcpo.core.errors import UserError
from mtcpo.core.processes import Process, is_first_process, is_written_by_others, require_torch_launcher, this_process

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
SBATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}


@pytest.fixture
def launched(monkeypatch):
    for name in {**TORCHRUN, **SRUN}:
        monkeypatch.delenv(name, raising=False)

    def launch(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return launch


@pytest.mark.parametrize(
    ("variables", "process"),
    [
        ({}, Process(0, 1, 0)),
        (TORCHRUN, Process(5, 8, 1)),
        (SRUN, Process(3, 4, 1)),
        # Each task of srun is a torchrun, which counts for all machines.
        (SRUN | TORCHRUN, Process(5, 8, 1)),
        # A batch script is one process, whatever the number of tasks that it may start.
        (SBATCH, Process(0, 1, 0)),
    ],
)
def test_a_launcher_says_which_process_this_is(launched, variables, process):
    launched(variables)
    assert this_process() == process
    assert is_first_process() == (process.rank == 0)


def test_training_needs_a_launcher_that_connects_processes(launched):
    require_torch_launcher()
    launched(SRUN)
    with pytest.raises(UserError, match="srun started 4 processes that cannot train together; start one"):
        require_torch_launcher()
    launched(TORCHRUN)
    require_torch_launcher()


def test_a_file_older_than_this_process_was_not_written_by_others_of_its_launch(tmp_path):
    file = tmp_path / "out.jsonl"
    assert not is_written_by_others(file)
    file.write_text("")
    assert is_written_by_others(file)
    os.utime(file, (0, 0))
    assert not is_written_by_others(file)
