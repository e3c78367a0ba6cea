"""An interrupt ends a command with exit code 130 and one line, however early it comes and whatever it is lost in."""

import itertools
import os
import signal
import subprocess
import sys

import pytest
from support.console import ENVIRONMENT, INTERRUPTED, finish, start, words, write_lines
from support.paths import ROOT

pytestmark = pytest.mark.slow

SIGNALS = itertools.cycle((signal.SIGINT, signal.SIGTERM))

# Python imports `sitecustomize` from PYTHONPATH before anything of ours.
SIGNAL_AT_IMPORT = """
import os, sys

class SignalAtImport:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["TEST_MODULE"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(os.environ["TEST_SIGNAL"]))

sys.meta_path.insert(0, SignalAtImport())
"""

MODULES = (
    *("mtcpo.cli.commands", "click", "mtcpo.core.errors", "mtcpo.cli.train"),  # before a command runs
    *("pydantic", "mtcpo.core.config", "mtcpo.training.config"),  # to read its settings
    *("mtcpo.training.train", "torch", "torch.nn", "transformers", "accelerate"),  # its libraries, which take seconds
)


@pytest.fixture
def folder(tmp_path):
    """A folder with triplets and the module that sends the signal."""
    write_lines(tmp_path / "sitecustomize.py", [SIGNAL_AT_IMPORT])
    triplet = '{"id": "1", "src_lang": "en", "tgt_lang": "de", "source": "a", "chosen": "b", "rejected": "c"}'
    write_lines(tmp_path / "p.jsonl", [triplet])
    (tmp_path / "work").mkdir()
    return tmp_path


@pytest.mark.parametrize("module", MODULES)
def test_an_interrupt_while_this_module_is_imported_is_one_line(folder, module):
    environment = {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "TEST_MODULE": module,
        "TEST_SIGNAL": str(int(next(SIGNALS))),
    }
    command = words("train --model no-such-model --prefs ../p.jsonl --output-dir t")
    outcome = finish(start(*command, cwd=folder / "work", **environment))
    assert (outcome.code, outcome.out, outcome.err) == (130, "", INTERRUPTED)
    assert not list((folder / "work").iterdir())


# Python prints an exception that is raised in a destructor, and goes on.
LOST_INTERRUPT = """
import os, signal, time
from mtcpo.cli.interrupts import leave_interrupted, raise_on_interrupt

class Sender:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)  # where the handler of the signal runs

raise_on_interrupt()
try:
    Sender()
    signal.pause()
except KeyboardInterrupt:
    leave_interrupted()
"""


def test_an_interrupt_that_a_destructor_swallows_comes_again():
    done = subprocess.run(
        [sys.executable, "-c", LOST_INTERRUPT], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", INTERRUPTED)
