"""Test sets: by sacreBLEU's names, from a folder of WMT files, or from files of one's own; and suites of them.

A suite is a TOML file that names metrics and test sets:

    metrics = ["bleu", "chrf"]
    test_sets = ["wmt22:de-en"]       # by sacreBLEU's names

    [[sets]]                          # files; relative paths start at the suite
    name = "mine"
    source = "mine.en"
    references = ["mine.de"]
    src_lang = "en"
    tgt_lang = "de"
"""

from __future__ import annotations

import re
import socket
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationInfo

from mtcpo.config import Config, PathOrName, load_section, read_toml
from mtcpo.errors import UserError, choose, nearest
from mtcpo.files import read_lines
from mtcpo.records import Segment
from mtcpo.shipped import shipped_toml

DOWNLOAD_TIMEOUT = 60.0
"""Seconds without an answer after which a download of a test set is given up."""

DOWNLOAD_ERRORS = (
    OSError,  # no network, no disk; also what a partly unpacked archive leads to
    HTTPException,
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    SyntaxError,  # lxml's XMLSyntaxError is one: a raw file that was cut
    SystemExit,  # sacreBLEU's answer to a wrong checksum
)


@dataclass(frozen=True, slots=True)
class TestSet:
    """Segments of one language pair. `origin` says where they come from: files, or sacreBLEU's name for them."""

    __test__: ClassVar[bool] = False  # a record, whatever pytest thinks of its name

    name: str
    src_lang: str
    tgt_lang: str
    segments: tuple[Segment, ...]
    origin: str
    reference_names: tuple[str, ...] = ()

    @property
    def pair(self) -> str:
        """The languages as in "en-de"."""
        return f"{self.src_lang}-{self.tgt_lang}"


class TestSetConfig(Config):
    """A test set in files: line-aligned text, one segment a line."""

    __test__: ClassVar[bool] = False

    name: str = Field(description="What it is called in evaluation.json and in translations/")
    source: PathOrName = Field(description="The text to translate")
    references: tuple[PathOrName, ...] = Field(
        (), description="Human translations; several files are several references"
    )
    src_lang: str = Field(description="Language of the source, BCP-47")
    tgt_lang: str = Field(description="Language of the references, BCP-47")


def _resolve_suite(value: Any, info: ValidationInfo) -> Any:
    """Make the path of a suite file absolute; leave names of suites and test sets alone."""
    is_file = isinstance(value, str) and value.endswith(".toml")
    return TypeAdapter(PathOrName).validate_python(value, context=info.context) if is_file else value


SuiteSpec = Annotated[str, BeforeValidator(_resolve_suite)]
"""What `--suite` takes: a shipped suite, a file that ends in .toml, or a test set such as wmt22:de-en."""


class SuiteConfig(Config):
    """Test sets that are evaluated together."""

    metrics: tuple[str, ...] = Field(("bleu", "chrf", "ter"), min_length=1, description="What is measured")
    test_sets: tuple[str, ...] = Field((), description="sacreBLEU's names, for example wmt22:de-en")
    sets: tuple[TestSetConfig, ...] = Field((), description="Test sets in files")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can safely name a file: names of systems and test sets are data, and become paths.

    Raises:
        UserError: empty, too long, with a path separator or a control character, or hidden (`.`, `..`, `.x`).
    """
    if not name.strip():
        raise UserError(f"{kind} without a name; give it one, for example base")
    if re.search(r"[/\\\x00-\x1f\x7f]", name) or name.startswith(".") or len(name.encode("utf-8")) > 200:
        raise UserError(
            f"{kind} {name!r}: it names a file, so it must be at most 200 bytes without / \\ or control characters, "
            "and must not start with a dot"
        )
    return name


def load_suite(spec: str, test_set_dir: Path | None = None) -> list[TestSet]:
    """Load what `--suite` names: a shipped suite (`demo`), a file (`x.toml`) or one test set (`wmt22:de-en`).

    Raises:
        UserError: unknown, not to be had, or damaged.
    """
    if ":" in spec and not spec.endswith(".toml"):
        return [load_test_set(spec, test_set_dir)]
    suite = read_suite(spec)
    if not suite.test_sets and not suite.sets:
        raise UserError(f"suite {spec}: no test set in it; add test_sets = [...] or a [[sets]] table")
    loaded = [load_test_set(name, test_set_dir) for name in suite.test_sets]
    return loaded + [load_local_set(config) for config in suite.sets]


def load_test_sets(
    suites: Sequence[str], sets: Sequence[TestSetConfig], test_set_dir: Path | None = None
) -> list[TestSet]:
    """Load all test sets of suites and files.

    Raises:
        UserError: as `load_suite`; none at all; or two of one name and language pair.
    """
    loaded = [test_set for spec in suites for test_set in load_suite(spec, test_set_dir)]
    loaded += [load_local_set(config) for config in sets]
    if not loaded:
        raise UserError("no test set to evaluate on; name one, for example --suite wmt22:de-en")
    seen: set[tuple[str, str]] = set()
    for test_set in loaded:
        if (test_set.name, test_set.pair) in seen:
            raise UserError(f"two test sets are {test_set.name} {test_set.pair}; name it once, or rename one")
        seen.add((test_set.name, test_set.pair))
    return loaded


def name_test_sets(suites: Sequence[str], sets: Sequence[TestSetConfig]) -> list[tuple[str, str]]:
    """Return (name, language pair) of what `load_test_sets` would load, without needing the text."""
    named: list[tuple[str, str]] = []
    for spec in suites:
        suite = SuiteConfig(test_sets=(spec,)) if ":" in spec and not spec.endswith(".toml") else read_suite(spec)
        for test_set in suite.test_sets:
            name, pair = (*test_set.split(":"), "")[:2]
            named.append((name.replace("/", "_"), pair))
        named += [(config.name, f"{config.src_lang}-{config.tgt_lang}") for config in suite.sets]
    return named + [(config.name, f"{config.src_lang}-{config.tgt_lang}") for config in sets]


def read_suite(spec: str) -> SuiteConfig:
    """Read a suite's TOML: a path that ends in .toml, or the name of a shipped suite."""
    path = Path(spec) if spec.endswith(".toml") else _shipped_suite(spec)
    return load_section(SuiteConfig, read_toml(path), str(path), base=path.resolve().parent)


def _shipped_suite(name: str) -> Path:
    suites = shipped_toml("eval/suites")
    if name in suites:
        return suites[name]
    known = _sacrebleu_sets()
    if name in known:
        pairs = sorted(known[name].langpairs)
        raise UserError(f"suite {name!r}: add the language pair, as in {name}:{pairs[0]}; it has {', '.join(pairs)}")
    guess = nearest(name, [*suites, *known])
    raise UserError(
        f"unknown suite {name!r}{guess}; choose from {', '.join(sorted(suites))}, a test set such as wmt22:de-en, "
        "or a file that ends in .toml"
    )


def load_local_set(config: TestSetConfig) -> TestSet:
    """Load a test set from line-aligned files."""
    name = check_name("test set", config.name)
    files = [Path(config.source), *(Path(reference) for reference in config.references)]
    labels = tuple(path.name for path in files[1:])
    return _make(name, config.src_lang, config.tgt_lang, _read_aligned(files), files[0].name, labels)


def load_test_set(spec: str, test_set_dir: Path | None = None) -> TestSet:
    """Load `SUITE:SRC-TGT`, or `SUITE:SRC-TGT:REF,REF` with references by name, for example `wmt22:de-en:A,B`.

    Without `test_set_dir` the names are sacreBLEU's, from its cache or by its download; with it, only that folder
    is looked at. Without names of references, those that sacreBLEU takes for this test set are used, else all.

    Raises:
        UserError: unknown name, pair or reference (with the nearest, or those that are there), not to be had
            (with what to place where), or files of unequal length.
    """
    suite, _, rest = spec.partition(":")
    pair, _, wanted = rest.partition(":")
    src_lang, _, tgt_lang = pair.partition("-")
    if not src_lang or not tgt_lang or not re.fullmatch(r"[\w-]+", pair):
        raise UserError(f"test set {spec!r}: write it as SUITE:SRC-TGT, for example wmt22:de-en")
    references = tuple(name for name in wanted.split(",") if name)
    if test_set_dir is None:
        return _from_sacrebleu(suite, pair, references)
    if suite not in _sacrebleu_sets():
        check_name("test set", suite)
    return _from_folder(test_set_dir, suite, pair, references)


def submitted_outputs(spec: str, test_set_dir: Path) -> dict[str, Path]:
    """Return the files of the systems that were submitted for a test set, by system.

    They lie in `system-outputs/` of the WMT layout, named like `generaltest2022.de-en.hyp.SYSTEM.en`.
    """
    suite, _, rest = spec.partition(":")
    pair = rest.partition(":")[0]
    target = pair.partition("-")[2]
    found: dict[str, Path] = {}
    for root in (test_set_dir, test_set_dir / "txt"):
        for stem in _stems(suite):
            found |= _labelled(root / "system-outputs", f"{stem}.{pair}.hyp.", f".{target}")
    return {check_name("system", name): path for name, path in sorted(found.items())}


def _sacrebleu_sets() -> Mapping[str, Any]:
    from sacrebleu.dataset import DATASETS

    return DATASETS


def _from_sacrebleu(suite: str, pair: str, wanted: Sequence[str]) -> TestSet:
    known = _sacrebleu_sets()
    if suite not in known:
        raise UserError(f"unknown test set {suite!r}{nearest(suite, known)}; sacrebleu --list names those it knows")
    dataset = known[suite]
    if pair not in dataset.langpairs:
        raise choose(f"language pair of {suite}", pair, dataset.langpairs)
    try:
        with _download_timeout():
            files = dict(zip(dataset.fieldnames(pair), map(Path, dataset.get_files(pair)), strict=True))
            default = {Path(path) for path in dataset.get_reference_files(pair)}
    except DOWNLOAD_ERRORS as error:
        raise UserError(_not_to_be_had(suite, pair, error)) from None
    references = {_label(field.partition(":")[2]): path for field, path in files.items() if field.startswith("ref")}
    if not wanted:
        wanted = [name for name, path in references.items() if path in default]
    chosen = _choose_references(f"{suite}:{pair}", references, wanted)
    for path in (files["src"], *chosen.values()):
        _check_complete(path)
    columns = _read_aligned([files["src"], *chosen.values()])
    docs = list(read_lines(files["docid"])) if "docid" in files else None
    languages = pair.split("-", 1)
    name = suite.replace("/", "_")
    return _make(name, languages[0], languages[1], columns, f"sacreBLEU {suite}/{pair}", tuple(chosen), docs)


@contextmanager
def _download_timeout() -> Iterator[None]:
    """Let no socket wait for ever: sacreBLEU's download sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _check_complete(path: Path) -> None:
    """Refuse a cached file whose last line is cut: sacreBLEU would take it for a shorter test set."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size:
            file.seek(size - 1)
        if not size or file.read(1) != b"\n":
            raise UserError(f"{path}: cut short, as by an interrupted download; delete {path.parent} and try again")


def _not_to_be_had(suite: str, pair: str, error: BaseException) -> str:
    from sacrebleu.utils import SACREBLEU_DIR

    reason = str(error) or type(error).__name__
    source, reference, *plain = _expected_names(suite, pair)
    return (
        f"test set {suite}:{pair}: not in {SACREBLEU_DIR}, and the download failed ({reason}); pass --test-set-dir DIR "
        f"with DIR/{source} and DIR/{reference} (or DIR/{plain[0]} and DIR/{plain[1]}), "
        f"or delete {Path(SACREBLEU_DIR) / suite} and try again with a network"
    )


def _stems(suite: str) -> list[str]:
    """Return how the files of a suite may start: WMT's `wmt22` is `generaltest2022`, up to 2021 `newstest2021`."""
    base = suite.split("/")[0]
    year = re.fullmatch(r"wmt(\d\d)", base)
    if year is None:
        return [base]
    names = ["generaltest", "newstest"] if int(year[1]) >= 22 else ["newstest", "generaltest"]
    return [f"{name}20{year[1]}" for name in (*names, "wmttest")] + [base]


def _expected_names(suite: str, pair: str) -> tuple[str, str, str, str]:
    """Return the file names in the WMT layout and in the plain one, for messages."""
    stem, base = _stems(suite)[0], suite.split("/")[0]
    source, target = pair.split("-", 1)
    label = next(iter(_default_references(suite, pair)), "A") or "A"
    return (
        f"sources/{stem}.{pair}.src.{source}",
        f"references/{stem}.{pair}.ref.{label}.{target}",
        f"{base}.{pair}.{source}",
        f"{base}.{pair}.{target}",
    )


def _default_references(suite: str, pair: str) -> list[str]:
    """Return the names of the references that sacreBLEU takes, so that a name means the same numbers everywhere."""
    dataset = _sacrebleu_sets().get(suite)
    if dataset is None:
        return []
    of_pair = dataset.langpairs.get(pair)
    default = dataset.kwargs.get("refs", [])
    return list(of_pair.get("refs", default) if isinstance(of_pair, dict) else default)


def _label(name: str) -> str:
    """Return `A` for the names that different years give it: `A`, `refA`, `ref-A`."""
    return re.sub(r"^ref-?(?=.)", "", name)


def _labelled(folder: Path, prefix: str, suffix: str) -> dict[str, Path]:
    """Return the files `folder/{prefix}LABEL{suffix}` by LABEL."""
    if not folder.is_dir():
        return {}
    names = (path for path in sorted(folder.iterdir()) if path.name.startswith(prefix) and path.name.endswith(suffix))
    return {path.name[len(prefix) : -len(suffix)]: path for path in names if len(path.name) > len(prefix + suffix)}


def _find_wmt_files(folder: Path, suite: str, pair: str) -> tuple[Path, dict[str, Path]] | None:
    source_lang, target_lang = pair.split("-", 1)
    for root in (folder, folder / "txt"):
        for stem in _stems(suite):
            source = root / "sources" / f"{stem}.{pair}.src.{source_lang}"
            if source.is_file():
                found = _labelled(root / "references", f"{stem}.{pair}.ref.", f".{target_lang}")
                return source, {_label(name): path for name, path in found.items()}
    base = suite.split("/")[0]
    source, reference = folder / f"{base}.{pair}.{source_lang}", folder / f"{base}.{pair}.{target_lang}"
    if source.is_file():
        return source, {"": reference} if reference.is_file() else {}
    return None


def _from_folder(folder: Path, suite: str, pair: str, wanted: Sequence[str]) -> TestSet:
    if not folder.is_dir():
        raise UserError(f"--test-set-dir {folder}: no such folder")
    found = _find_wmt_files(folder, suite, pair)
    source_name, reference_name, *plain = _expected_names(suite, pair)
    if found is None:
        there = _test_sets_in(folder)
        has = f"it has {', '.join(there)}{nearest(f'{suite}:{pair}', there)}" if there else "it has no test set"
        raise UserError(
            f"--test-set-dir {folder}: no test set {suite}:{pair} in it; place {source_name} and {reference_name} "
            f"there, or {plain[0]} and {plain[1]}; {has}"
        )
    source, references = found
    if not references:
        raise UserError(f"{source}: no reference beside it; place {reference_name} (or {plain[1]}) in {folder}")
    if not wanted:
        default = [_label(name) for name in _default_references(suite, pair)]
        wanted = [name for name in default if name in references] or list(references)
    chosen = _choose_references(f"{suite}:{pair}", references, wanted)
    columns = _read_aligned([source, *chosen.values()])
    languages = pair.split("-", 1)
    return _make(suite.replace("/", "_"), languages[0], languages[1], columns, str(source), tuple(chosen))


def _test_sets_in(folder: Path) -> list[str]:
    """Return the test sets of a folder in the WMT layout, as SUITE:PAIR."""
    found = set()
    for path in [*folder.glob("sources/*.src.*"), *folder.glob("txt/sources/*.src.*")]:
        match = re.fullmatch(r"(.+)\.([a-z]+-[a-z]+)\.src\.[a-z]+", path.name)
        if match:
            stem = re.sub(r"^(?:general|news|wmt)test20(?=\d\d$)", "wmt", match[1])
            found.add(f"{stem}:{match[2]}")
    return sorted(found)


def _choose_references(where: str, there: Mapping[str, Path], wanted: Sequence[str]) -> dict[str, Path]:
    for name in wanted:
        if _label(name) not in there:
            raise choose(f"reference of {where}", name, [label or "(unnamed)" for label in there])
    return {_label(name): there[_label(name)] for name in wanted}


def _read_aligned(files: Sequence[Path]) -> list[list[str]]:
    """Read files that must have equally many lines, at least one."""
    columns = [list(read_lines(path)) for path in files]
    if not columns[0]:
        raise UserError(f"{files[0]}: empty; a test set needs at least one line")
    for path, column in zip(files, columns, strict=True):
        if len(column) != len(columns[0]):
            raise UserError(
                f"{path}: {len(column)} lines, but {files[0]} has {len(columns[0])}; line n of one must translate "
                "line n of the other"
            )
    return columns


def _make(
    name: str,
    src_lang: str,
    tgt_lang: str,
    columns: Sequence[Sequence[str]],
    origin: str,
    reference_names: tuple[str, ...],
    docs: Sequence[str] | None = None,
) -> TestSet:
    """Make the record of columns: the source, then the references."""
    if docs is not None and len(docs) != len(columns[0]):
        raise UserError(f"{origin}: {len(docs)} document names for {len(columns[0])} segments; fetch it again")
    segments = tuple(
        Segment(
            id=f"{name}:{src_lang}-{tgt_lang}:{number}",
            src_lang=src_lang,
            tgt_lang=tgt_lang,
            source=source,
            references=tuple(references),
            doc=docs[number - 1] if docs is not None else None,
        )
        for number, (source, *references) in enumerate(zip(*columns, strict=True), start=1)
    )
    return TestSet(name, src_lang, tgt_lang, segments, origin, reference_names)
