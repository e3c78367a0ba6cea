"""The order of the modules is the architecture: each imports only from those before it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mtcpo

PACKAGE = Path(mtcpo.__file__).parent

_ORDER = """
errors files ondisk provenance outputs config records languages langid shipped hub owncode rows formats corpora triplets
comet comet.checkpoint comet.packed comet.encoder comet.spans comet.tokens comet.engine comet.loading comet.runner
comet.worker
metrics.cometconfig metrics.contract metrics.ngrams metrics.lexical metrics.comet metrics.mbr metrics.usercode metrics
scorecache scoring
combining filters selection prefsreport preferences
translation trainconfig families scored places head logprobs onepass packing
layouts.contract layouts.encoderdecoder layouts.decoderonly layouts adapters canary versions
sharding weights tokenization models creation
progress translation.generate devset batching losses trainer arguments tokencache examples checkpoints
modelcard training
testsets sacrebleusets testfolders suites symptoms significance tallies standings evaluation assessment comparison
tables papertables sidebyside plots figures howmade overview report pairpage
doctor recipe stages runfolder readiness pipeline api apitrainer
terminal options paircommands modelcommands scorecommands cli __main__
"""
ORDER = _ORDER.split()

HEAVY = ("torch", "transformers", "accelerate", "datasets", "comet", "pyarrow", "sentencepiece")


def modules():
    """Name -> file of every module but the package's own __init__, which holds the version."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    del found["__init__"]
    return found


def imported(path):
    """The modules of the package that a file imports anywhere, inside functions and for type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "mtcpo":
                found |= {alias.name for alias in node.names if alias.name in ORDER}
            elif node.module.startswith("mtcpo."):
                found.add(node.module.removeprefix("mtcpo."))
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("mtcpo.") for alias in node.names if alias.name.startswith("mtcpo.")}
    return found


def test_every_module_has_its_place_in_the_order():
    assert sorted(modules()) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_earlier_ones(name):
    # `metrics` and `translation` are folders: the table of each stands for the whole and knows its parts.
    later = {other for other in imported(modules()[name]) - {name} if ORDER.index(other) > ORDER.index(name)}
    assert not later


def loaded_by(arguments, cwd):
    """The heavy modules in a process after a command, and what it printed."""
    code = (
        "import sys\n"
        "from mtcpo.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as error:\n    assert error.code == 0, error.code\n"
        f"print('heavy:', *sorted(set(sys.modules) & set({HEAVY!r})))\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture
def texts(tmp_path):
    lines = {"s.en": ["One.", "Two birds."], "r.de": ["Eins.", "Zwei Vögel."], "h.de": ["Ein.", "Zwei Vogel."]}
    for name, rows in lines.items():
        (tmp_path / name).write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return tmp_path


CORPUS = ["--source", "s.en", "--reference", "r.de", "--hyp", "a=r.de", "--hyp", "b=h.de"]
LANGUAGES = ["--src-lang", "en", "--tgt-lang", "de"]

LIGHT = {
    "help": ["--help"],
    "version": ["--version"],
    "train help": ["train", "--help"],
    "recipes": ["recipes"],
    "build-prefs": ["build-prefs", *CORPUS, *LANGUAGES, "--metric", "chrf", "--metric", "bleu", "--output", "p.jsonl"],
    "evaluate": ["evaluate", *CORPUS, *LANGUAGES, "--metric", "bleu", "--output-dir", "e"],
    "dry run": ["run", "demo", "--dry-run"],
}


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT.keys())
def test_what_needs_no_model_imports_no_model_library(arguments, texts):
    assert loaded_by(arguments, texts) == "heavy:"


def test_help_is_quick(tmp_path):
    # The processor's time, which a busy machine does not change: what is asserted is that nobody waits for torch (3 s).
    times = []
    for _ in range(3):
        start = sum(os.times()[2:4])
        subprocess.run([sys.executable, "-m", "mtcpo", "--help"], capture_output=True, cwd=tmp_path, check=True,
                       env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)})  # fmt: skip
        times.append(sum(os.times()[2:4]) - start)
    assert min(times) < 1
