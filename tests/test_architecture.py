"""The architecture: packages in one order, no circles, light imports, and a charter in each package."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import architecture_table
import pytest
from architecture_table import ORDER

import mtcpo

PACKAGE = Path(mtcpo.__file__).parent

STRANGERS = [
    ("preferences", "training"),
    ("preferences", "evaluation"),
    ("training", "evaluation"),
    ("api", "cli"),
    ("report", "metrics"),
    ("report", "preferences"),
    ("report", "models"),
    ("report", "translation"),
    ("report", "training"),
    ("models", "metrics"),
    ("models", "preferences"),
    ("translation", "preferences"),
    ("api", "pipeline"),
]
"""Pairs of packages that do not import each other: they meet in files, in `pipeline`, or in a door."""

COMET_WORKER_NEEDS = {"mtcpo.core.errors", "mtcpo.core.hub", "mtcpo.core.resources", "mtcpo.data.records"}
"""What the COMET worker may import beside its own package: the other environment need not have our dependencies."""

MAX_MODULES = 14
"""Modules in a folder, its `__init__` apart."""

MAX_LINES = 350
"""Lines of a module."""

HEAVY = ("torch", "transformers", "accelerate", "datasets", "comet", "pyarrow", "sentencepiece")


def module_files():
    """Return the file of each module by its dotted name."""
    files = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = path
    return files


FILES = module_files()


def imports_of(module):
    """Return the modules of the package that a module imports, inside functions and for type checking included."""
    imported = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name in FILES}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{FILES[module]}:{node.lineno}: relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                imported.add(submodule if submodule in FILES else node.module)
    return imported & FILES.keys() - {module}


def package_of(module):
    """Return the package of a module: `core` of `mtcpo.core.files`, "" of `mtcpo` itself."""
    return module.partition(".")[2].partition(".")[0]


EDGES = [(module, other) for module in sorted(FILES) for other in sorted(imports_of(module))]


def test_the_root_holds_packages_alone():
    names = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "assets"}
    assert names == {*ORDER, "__init__.py", "__main__.py", "py.typed"}


def test_a_package_imports_only_earlier_ones():
    inside = [(a, b) for a, b in EDGES if package_of(a) in ORDER]
    late = [(a, b) for a, b in inside if package_of(b) not in ORDER[: ORDER.index(package_of(a)) + 1]]
    assert not late


@pytest.mark.parametrize(("one", "other"), STRANGERS, ids="-".join)
def test_strangers_do_not_import_each_other(one, other):
    assert not [(a, b) for a, b in EDGES if {package_of(a), package_of(b)} == {one, other}]


def test_modules_form_no_circle():
    # The package's own __init__ offers public names lazily: the only import against the order, made at first use.
    graph = {module: {b for a, b in EDGES if a == module} for module in FILES if module != "mtcpo"}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(order) >= graph.keys()


INITS = sorted(path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


@pytest.mark.parametrize("path", INITS, ids=lambda path: path.parent.name)
def test_an_init_is_a_docstring_and_nothing_else(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_the_table_of_packages_in_the_docs_matches_their_docstrings():
    page = architecture_table.PAGE.read_text(encoding="utf-8")
    new = architecture_table.with_table(page, architecture_table.table())
    assert page == new, "run python tools/architecture_table.py"


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES.values()}), ids=lambda folder: folder.name)
def test_a_folder_holds_few_modules(folder):
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= MAX_MODULES


def test_a_module_is_short():
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in FILES.items()}
    assert not {module: count for module, count in lines.items() if count > MAX_LINES}


def test_the_comet_worker_needs_little_beside_comet():
    needed, waiting = set(), ["mtcpo.metrics.comet.worker"]
    while waiting:
        module = waiting.pop()
        new = imports_of(module) - needed
        needed |= new
        waiting += new
    outside = {module for module in needed if not module.startswith("mtcpo.metrics.comet.")}
    assert outside <= COMET_WORKER_NEEDS


def heavy_modules_after(arguments, cwd):
    """Run a command in a process of its own; return the line that lists the heavy modules it had loaded."""
    code = (
        "import sys\n"
        "from mtcpo.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as error:\n    assert error.code == 0, error.code\n"
        f"print('heavy:', *sorted(set(sys.modules) & set({HEAVY!r})))\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture
def texts(tmp_path):
    """A folder with a source, a reference and a hypothesis."""
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
def test_a_command_without_a_model_imports_no_heavy_library(arguments, texts):
    assert heavy_modules_after(arguments, texts) == "heavy:"


def test_help_does_not_wait_for_torch(tmp_path):
    # Processor time, which a busy machine does not change; importing torch alone takes three seconds of it.
    times = []
    for _ in range(3):
        start = sum(os.times()[2:4])
        environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
        command = [sys.executable, "-m", "mtcpo", "--help"]
        subprocess.run(command, capture_output=True, cwd=tmp_path, check=True, env=environment)
        times.append(sum(os.times()[2:4]) - start)
    assert min(times) < 1
