"""Test sets in a folder, in the layouts in which they are published (`--test-set-dir DIR`).

WMT "news-systems"   sources/generaltest2022.de-en.src.de  references/generaltest2022.de-en.ref.A.en
                     system-outputs/generaltest2022.de-en.hyp.SYSTEM.en        (all also under txt/)
the same, 2024       sources/en-de.txt  references/en-de.refA.txt  system-outputs/en-de/SYSTEM.txt
mt-metrics-eval      wmt22/sources/en-de.txt, and the others likewise
FLORES-200           devtest/deu_Latn.devtest                                  (also under flores200_dataset/)
Multi30k             test_2016_flickr.de, or .de.gz                            (also under data/task1/raw/)
any other            NAME.de-en.de, NAME.de-en.en
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mtcpo.core.errors import UserError, counted, nearest
from mtcpo.core.files import count_lines
from mtcpo.data.languages import check_language
from mtcpo.data.names import check_name
from mtcpo.evaluation.testsets.sacrebleu import default_references, known_sets
from mtcpo.evaluation.testsets.testset import TestSetFiles, TestSetSpec, plain_label
from mtcpo.models.language_codes import nllb_codes


@dataclass(frozen=True, slots=True)
class Release:
    """A published test set with one file for each language.

    stem: beginning of the file names. lines: number of lines of each file. home: where it is published.
    """

    stem: str
    lines: int
    home: str


MULTI30K = "github.com/multi30k/dataset"
FLORES = "the flores200_dataset archive"

RELEASES = {
    "multi30k/2016": Release("test_2016_flickr", 1000, MULTI30K),
    "multi30k/2017": Release("test_2017_flickr", 1000, MULTI30K),
    "multi30k/2018": Release("test_2018_flickr", 1071, MULTI30K),
    "multi30k/mscoco": Release("test_2017_mscoco", 461, MULTI30K),
    "flores200": Release("devtest", 1012, FLORES),
    "flores200/dev": Release("dev", 997, FLORES),
}
"""Suite -> release. sacreBLEU knows the first three as well."""

SUITE_WITHOUT_STEM = "wmt24"
"""The suite whose published files are named by language pair alone."""

ROOTS = {MULTI30K: (".", "data/task1/raw"), FLORES: (".", "flores200_dataset")}


def find(spec: TestSetSpec, folder: Path) -> TestSetFiles:
    """Find the files of a test set in a folder in one of the layouts above.

    Raises:
        UserError: no such folder, no such test set in it (the message says which files to put where, and what is
            there), no reference, or not the published number of lines.
    """
    if spec.suite not in known_sets() and spec.suite not in RELEASES:
        check_name("test set", spec.suite)
    if not folder.is_dir():
        raise UserError(f"--test-set-dir {folder}: no such folder")
    files = _find(folder, spec)
    if files is None:
        there = _test_sets_in(folder)
        has = "it has none"
        if there:
            has = f"it has {', '.join(there)}{nearest(f'{spec.suite}:{spec.pair}', there)}"
        raise UserError(
            f"--test-set-dir {folder}: no test set {spec.suite}:{spec.pair} in it; place {where_to_put(spec, '')} "
            f"there; {has}"
        )
    if not files.references:
        raise UserError(f"{files.source}: no reference beside it; place {_expected_files(spec)[1]} in {folder}")
    _check_length(spec, files.source)
    return replace(files, default_references=default_references(spec))


def check_downloadable(spec: TestSetSpec) -> None:
    """Refuse a release that sacreBLEU cannot fetch.

    Raises:
        UserError: the message says where to get it, and where its files go.
    """
    if spec.suite in RELEASES and spec.suite not in known_sets():
        raise UserError(
            f"test set {spec.suite}:{spec.pair}: sacreBLEU cannot download it; get it from {RELEASES[spec.suite].home} "
            f"and pass --test-set-dir DIR with {where_to_put(spec)}"
        )


def languages_of(spec: TestSetSpec) -> tuple[str, str]:
    """Return the languages as in results: `deu_Latn` of FLORES is `de`, all others stay as written."""
    if spec.suite.startswith("flores200"):
        return check_language(spec.src), check_language(spec.tgt)
    return spec.src, spec.tgt


def where_to_put(spec: TestSetSpec, prefix: str = "DIR/") -> str:
    """Return, for messages, the files of a test set that a folder must have."""
    source, reference, *plain = [f"{prefix}{name}" for name in _expected_files(spec)]
    text = f"{source} and {reference}"
    if plain:
        text += f" (or {plain[0]} and {plain[1]})"
    if spec.suite in RELEASES:
        text += f" of {RELEASES[spec.suite].home}"
    return text


def _check_length(spec: TestSetSpec, source: Path) -> None:
    """Refuse a release with missing or extra lines: its scores would not be comparable."""
    release = RELEASES.get(spec.suite)
    if release is None:
        return
    lines = count_lines(source)
    if lines != release.lines:
        raise UserError(
            f"{source}: {counted(lines, 'line')}, but {spec.suite} has {release.lines}; "
            f"download it again from {release.home}"
        )


def _expected_files(spec: TestSetSpec) -> tuple[str, ...]:
    """Return the names of source and reference in the layout of the release or of WMT, then in the plain one."""
    release = RELEASES.get(spec.suite)
    if release is not None:
        return _release_file(release, spec.src), _release_file(release, spec.tgt)
    stem, base = _stems(spec.suite)[0], _base(spec.suite)
    label = next(iter(default_references(spec)), "A") or "A"
    if base == SUITE_WITHOUT_STEM:
        return f"sources/{spec.pair}.txt", f"references/{spec.pair}.ref{plain_label(label)}.txt"
    return (
        f"sources/{stem}.{spec.pair}.src.{spec.src}",
        f"references/{stem}.{spec.pair}.ref.{label}.{spec.tgt}",
        f"{base}.{spec.pair}.{spec.src}",
        f"{base}.{spec.pair}.{spec.tgt}",
    )


def _release_file(release: Release, language: str) -> str:
    if release.home == MULTI30K:
        return f"{release.stem}.{language}"
    code = language if "_" in language else nllb_codes(check_language(language))[0]
    return f"{release.stem}/{code}.{release.stem}"


def _find(folder: Path, spec: TestSetSpec) -> TestSetFiles | None:
    release = RELEASES.get(spec.suite)
    if release is not None:
        return _find_release(folder, spec, release)
    return _find_wmt(folder, spec) or _find_without_stem(folder, spec) or _find_plain(folder, spec)


def _find_release(folder: Path, spec: TestSetSpec, release: Release) -> TestSetFiles | None:
    for root in ROOTS[release.home]:
        for suffix in ("", ".gz"):
            source = folder / root / f"{_release_file(release, spec.src)}{suffix}"
            if source.is_file():
                return _source_and_reference(source, folder / root / f"{_release_file(release, spec.tgt)}{suffix}")
    return None


def _find_wmt(folder: Path, spec: TestSetSpec) -> TestSetFiles | None:
    for root in (folder, folder / "txt"):
        for stem in _stems(spec.suite):
            source = root / "sources" / f"{stem}.{spec.pair}.src.{spec.src}"
            if source.is_file():
                references = _files_by_label(root / "references", f"{stem}.{spec.pair}.ref.", f".{spec.tgt}")
                outputs = _files_by_label(root / "system-outputs", f"{stem}.{spec.pair}.hyp.", f".{spec.tgt}")
                return _with_systems(source, references, outputs)
    return None


def _find_without_stem(folder: Path, spec: TestSetSpec) -> TestSetFiles | None:
    """Find files whose names lack the test set: a parent folder names it, or it is WMT24."""
    base = _base(spec.suite)
    roots = [folder / base]
    if _suite_without_stem(folder) == base:
        roots += [folder, folder / "txt"]
    for root in roots:
        source = root / "sources" / f"{spec.pair}.txt"
        if source.is_file():
            references = _files_by_label(root / "references", f"{spec.pair}.", ".txt")
            outputs = _files_by_label(root / "system-outputs" / spec.pair, "", ".txt")
            return _with_systems(source, references, outputs)
    return None


def _suite_without_stem(folder: Path) -> str:
    """Return the suite of a folder whose files do not name it: by the year in the folder's name, else WMT24."""
    years = re.findall(r"wmt\d\d", "/".join(folder.resolve().parts[-2:]))
    return years[-1] if years else SUITE_WITHOUT_STEM


def _find_plain(folder: Path, spec: TestSetSpec) -> TestSetFiles | None:
    stem = f"{_base(spec.suite)}.{spec.pair}"
    source = folder / f"{stem}.{spec.src}"
    return _source_and_reference(source, folder / f"{stem}.{spec.tgt}") if source.is_file() else None


def _source_and_reference(source: Path, reference: Path) -> TestSetFiles:
    return TestSetFiles(source, {"": reference} if reference.is_file() else {}, str(source))


def _with_systems(source: Path, references: Mapping[str, Path], outputs: Mapping[str, Path]) -> TestSetFiles:
    """Return the files of a test set; some folders have references among the system outputs, too."""
    systems = {name: path for name, path in outputs.items() if name not in references}
    labelled = {plain_label(name): path for name, path in references.items()}
    return TestSetFiles(source, labelled, str(source), systems)


def _base(suite: str) -> str:
    """Return the suite's name in file names: `wmt21` for sacreBLEU's `wmt21/AB`."""
    return suite.split("/")[0]


def _stems(suite: str) -> list[str]:
    """Return possible beginnings of a suite's file names: for `wmt22` `generaltest2022`, up to 2021 `newstest2021`."""
    base = _base(suite)
    year = re.fullmatch(r"wmt(\d\d)", base)
    if year is None:
        return [base]
    names = ["generaltest", "newstest"] if int(year[1]) >= 22 else ["newstest", "generaltest"]
    # Most likely first: messages name only the first.
    names += ["wmttest", "florestest"]
    return [*(f"{name}20{year[1]}" for name in names), base]


def _files_by_label(folder: Path, prefix: str, suffix: str) -> dict[str, Path]:
    """Return LABEL -> file `folder/{prefix}LABEL{suffix}`."""
    files: dict[str, Path] = {}
    if not folder.is_dir():
        return files
    for path in sorted(folder.iterdir()):
        # Longer than both, so not without a label: such a file is neither a reference nor a system.
        if path.name.startswith(prefix) and path.name.endswith(suffix) and len(path.name) > len(prefix + suffix):
            files[path.name[len(prefix) : -len(suffix)]] = path
    return files


def _test_sets_in(folder: Path) -> list[str]:
    """Return the test sets of a folder in the WMT layouts, as SUITE:PAIR."""
    specs = set()
    for path in [*folder.glob("sources/*.src.*"), *folder.glob("txt/sources/*.src.*")]:
        match = re.fullmatch(r"(.+)\.([a-z]+-[a-z]+)\.src\.[a-z]+", path.name)
        if match:
            suite = re.sub(r"^(?:general|news|wmt|flores)test20(?=\d\d$)", "wmt", match[1])
            specs.add(f"{suite}:{match[2]}")
    for path in [*folder.glob("sources/*.txt"), *folder.glob("txt/sources/*.txt"), *folder.glob("wmt??/sources/*.txt")]:
        if re.fullmatch(r"[a-z]+-[a-z]+", path.stem):
            specs.add(f"{_suite_without_stem(path.parents[1])}:{path.stem}")
    return sorted(specs)
