"""What all tests share: no network, one thread, and tiny models, each made once."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Before any import of the libraries, which read it once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny tensors: threads would only wait for each other, for seconds where the machine has other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tokenized data of the tests, theirs alone; read by the library that keeps such data when it is imported.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="mtcpo-tests-")
# Code of models that tests allow to run, which transformers copies before it imports it.
os.environ["HF_MODULES_CACHE"] = str(Path(os.environ["HF_DATASETS_CACHE"], "modules"))

import signal

import pytest
from support.requirements import REASONS_TO_SKIP
from support.timing import TEST_HANGS

atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)

# A shell without job control starts background jobs deaf to Ctrl-C, and what they start is deaf too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Give each test its time limit, and skip those whose markers require what this machine lacks."""
    for item in items:
        item.add_marker(pytest.mark.timeout(TEST_HANGS))
        for name, reason_to_skip in REASONS_TO_SKIP.items():
            reason = reason_to_skip() if item.get_closest_marker(name) else None
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def forget_modules_of_the_test(tmp_path_factory):
    """Unload the modules that a test wrote and imported: another test may write one of the same name."""
    before = set(sys.modules)
    yield
    for name in sys.modules.keys() - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path_factory.getbasetemp()):
            del sys.modules[name]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A function from a kind of tiny model (support.families.TINY_MODELS) to its folder, made at the first call."""
    from support.models import make_model

    made = {}

    def folder_of(kind):
        if kind not in made:
            made[kind] = make_model(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder_of


@pytest.fixture
def load(model_folder):
    """A function from a kind of tiny model to the model, loaded again for each test, on the CPU in float32."""
    from mtcpo.models.loading import load_model

    def loaded(kind, **options):
        return load_model(str(model_folder(kind)), **({"dtype": "float32", "device": "cpu"} | options))

    return loaded


@pytest.fixture(scope="session")
def corpus():
    """Made-up English-German sentence pairs."""
    from support.models import PAIRS

    return PAIRS
