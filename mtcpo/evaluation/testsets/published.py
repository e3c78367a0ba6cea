"""Test sets in a folder, in the layouts in which they are published (`--test-set-dir DIR`).

WMT "news-systems"   sources/generaltest2022.de-en.src.de  references/generaltest2022.de-en.ref.A.en
                     system-outputs/generaltest2022.de-en.hyp.SYSTEM.en        (all also under txt/)
the same of 2024     sources/en-de.txt  references/en-de.refA.txt  system-outputs/en-de/SYSTEM.txt
mt-metrics-eval      wmt22/sources/en-de.txt, and the others like these
FLORES-200           devtest/deu_Latn.devtest                                  (also under flores200_dataset/)
Multi30k             test_2016_flickr.de, or .de.gz                            (also under data/task1/raw/)
any other            NAME.de-en.de, NAME.de-en.en
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtcpo.core.errors import UserError, nearest
from mtcpo.data.languages import check_language
from mtcpo.data.names import check_name
from mtcpo.evaluation.testsets.sacrebleu import default_references, known_sets
from mtcpo.evaluation.testsets.testset import (
    Spec,
    TestSet,
    choose_references,
    make_test_set,
    plain_label,
    read_columns,
)
from mtcpo.models.language_codes import nllb_codes


@dataclass(frozen=True, slots=True)
class Release:
    """A published test set that has one file a language. stem: of its files; lines: how many each must have."""

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
"""By name. sacreBLEU knows the first three too, and the others not."""

NAMELESS = "wmt24"
"""The suite of published files that are named by their language pair alone."""

ROOTS = {MULTI30K: (".", "data/task1/raw"), FLORES: (".", "flores200_dataset")}


@dataclass(frozen=True, slots=True)
class Files:
    """What a folder has of a test set: files by the reference's or the system's name."""

    source: Path
    references: Mapping[str, Path]
    systems: Mapping[str, Path] = field(default_factory=dict)


def load_from_folder(folder: Path, spec: Spec, submitted: bool = False) -> TestSet:
    """Load a test set from a folder in one of the layouts above.

    Raises:
        UserError: no such folder, nothing of this name in it (with what to place where, and what is there), no such
            reference, files of unequal length, or of another length than the published ones.
    """
    if spec.suite not in known_sets() and spec.suite not in RELEASES:
        check_name("test set", spec.suite)
    if not folder.is_dir():
        raise UserError(f"--test-set-dir {folder}: no such folder")
    files = _find(folder, spec)
    if files is None:
        there = _test_sets_in(folder)
        has = f"it has {', '.join(there)}{nearest(f'{spec.suite}:{spec.pair}', there)}" if there else "it has none"
        raise UserError(
            f"--test-set-dir {folder}: no test set {spec.suite}:{spec.pair} in it; place {where_to_put(spec, '')} "
            f"there; {has}"
        )
    if not files.references:
        raise UserError(f"{files.source}: no reference beside it; place {_expected(spec)[1]} in {folder}")
    chosen = choose_references(spec, files.references, default_references(spec))
    systems = files.systems if submitted else {}
    columns = read_columns([files.source, *chosen.values(), *systems.values()])
    _check_length(spec, files.source, len(columns[0]))
    texts, outputs = columns[: 1 + len(chosen)], columns[1 + len(chosen) :]
    src_lang, tgt_lang = languages_of(spec)
    test_set = make_test_set(spec.name, src_lang, tgt_lang, texts, str(files.source), tuple(chosen))
    return replace(test_set, submitted=dict(zip(systems, outputs, strict=True)))


def languages_of(spec: Spec) -> tuple[str, str]:
    """Return the languages as results have them: FLORES's `deu_Latn` is `de`, all else stays as it is written."""
    if spec.suite.startswith("flores200"):
        return check_language(spec.src), check_language(spec.tgt)
    return spec.src, spec.tgt


def where_to_put(spec: Spec, prefix: str = "DIR/") -> str:
    """Return the files that a folder needs for a test set, for messages."""
    source, reference, *plain = (f"{prefix}{name}" for name in _expected(spec))
    release = RELEASES.get(spec.suite)
    either = f" (or {plain[0]} and {plain[1]})" if plain else ""
    return f"{source} and {reference}{either}" + (f" of {release.home}" if release else "")


def _check_length(spec: Spec, source: Path, lines: int) -> None:
    release = RELEASES.get(spec.suite)
    if release is not None and lines != release.lines:
        raise UserError(
            f"{source}: {lines} lines, but {spec.suite} has {release.lines}; fetch it again from {release.home}"
        )


def _expected(spec: Spec) -> tuple[str, ...]:
    """Return the names of source and reference in the layout of the release or of WMT, then in the plain one."""
    release = RELEASES.get(spec.suite)
    if release is not None:
        return _release_name(release, spec.src), _release_name(release, spec.tgt)
    stem, base = _stems(spec.suite)[0], _base(spec.suite)
    label = next(iter(default_references(spec)), "A") or "A"
    if base == NAMELESS:
        return f"sources/{spec.pair}.txt", f"references/{spec.pair}.ref{plain_label(label)}.txt"
    return (
        f"sources/{stem}.{spec.pair}.src.{spec.src}",
        f"references/{stem}.{spec.pair}.ref.{label}.{spec.tgt}",
        f"{base}.{spec.pair}.{spec.src}",
        f"{base}.{spec.pair}.{spec.tgt}",
    )


def _release_name(release: Release, language: str) -> str:
    if release.home == MULTI30K:
        return f"{release.stem}.{language}"
    code = language if "_" in language else nllb_codes(check_language(language))[0]
    return f"{release.stem}/{code}.{release.stem}"


def _find(folder: Path, spec: Spec) -> Files | None:
    release = RELEASES.get(spec.suite)
    if release is not None:
        return _find_release(folder, spec, release)
    return _find_wmt(folder, spec) or _find_nameless(folder, spec) or _find_plain(folder, spec)


def _find_release(folder: Path, spec: Spec, release: Release) -> Files | None:
    for root in ROOTS[release.home]:
        for suffix in ("", ".gz"):
            source, reference = (
                folder / root / f"{_release_name(release, lang)}{suffix}" for lang in (spec.src, spec.tgt)
            )
            if source.is_file():
                return Files(source, {"": reference} if reference.is_file() else {})
    return None


def _find_wmt(folder: Path, spec: Spec) -> Files | None:
    for root in (folder, folder / "txt"):
        for stem in _stems(spec.suite):
            source = root / "sources" / f"{stem}.{spec.pair}.src.{spec.src}"
            if source.is_file():
                found = _labelled(root / "references", f"{stem}.{spec.pair}.ref.", f".{spec.tgt}")
                systems = _labelled(root / "system-outputs", f"{stem}.{spec.pair}.hyp.", f".{spec.tgt}")
                return _files(source, found, systems)
    return None


def _find_nameless(folder: Path, spec: Spec) -> Files | None:
    """Find files that do not say which test set they are of: a folder above them does, or they are WMT24's."""
    base = _base(spec.suite)
    roots = [folder / base] + ([folder, folder / "txt"] if _nameless_suite(folder) == base else [])
    for root in roots:
        source = root / "sources" / f"{spec.pair}.txt"
        if source.is_file():
            found = _labelled(root / "references", f"{spec.pair}.", ".txt")
            return _files(source, found, _labelled(root / "system-outputs" / spec.pair, "", ".txt"))
    return None


def _nameless_suite(folder: Path) -> str:
    """Return the suite of a folder whose files are not named after one: the year in its name, else WMT24."""
    years = re.findall(r"wmt\d\d", "/".join(folder.resolve().parts[-2:]))
    return years[-1] if years else NAMELESS


def _find_plain(folder: Path, spec: Spec) -> Files | None:
    stem = f"{_base(spec.suite)}.{spec.pair}"
    source, reference = folder / f"{stem}.{spec.src}", folder / f"{stem}.{spec.tgt}"
    if source.is_file():
        return Files(source, {"": reference} if reference.is_file() else {})
    return None


def _files(source: Path, references: Mapping[str, Path], outputs: Mapping[str, Path]) -> Files:
    """Return the files of a test set; an output that is named as a reference is that, and no system's."""
    systems = {name: path for name, path in outputs.items() if name not in references}
    return Files(source, {plain_label(name): path for name, path in references.items()}, systems)


def _base(suite: str) -> str:
    """Return what the files of a suite are called: `wmt21` of sacreBLEU's `wmt21/AB`."""
    return suite.split("/")[0]


def _stems(suite: str) -> list[str]:
    """Return how the files of a suite may start: WMT's `wmt22` is `generaltest2022`, up to 2021 `newstest2021`."""
    base = _base(suite)
    year = re.fullmatch(r"wmt(\d\d)", base)
    if year is None:
        return [base]
    names = ["generaltest", "newstest"] if int(year[1]) >= 22 else ["newstest", "generaltest"]
    return [f"{name}20{year[1]}" for name in (*names, "wmttest", "florestest")] + [base]


def _labelled(folder: Path, prefix: str, suffix: str) -> dict[str, Path]:
    """Return the files `folder/{prefix}LABEL{suffix}` by LABEL."""
    if not folder.is_dir():
        return {}
    names = (path for path in sorted(folder.iterdir()) if path.name.startswith(prefix) and path.name.endswith(suffix))
    return {path.name[len(prefix) : -len(suffix)]: path for path in names if len(path.name) > len(prefix + suffix)}


def _test_sets_in(folder: Path) -> list[str]:
    """Return the test sets of a folder in the WMT layout, as SUITE:PAIR."""
    found = set()
    for path in [*folder.glob("sources/*.src.*"), *folder.glob("txt/sources/*.src.*")]:
        match = re.fullmatch(r"(.+)\.([a-z]+-[a-z]+)\.src\.[a-z]+", path.name)
        if match:
            stem = re.sub(r"^(?:general|news|wmt|flores)test20(?=\d\d$)", "wmt", match[1])
            found.add(f"{stem}:{match[2]}")
    for path in [*folder.glob("sources/*.txt"), *folder.glob("txt/sources/*.txt"), *folder.glob("wmt??/sources/*.txt")]:
        if re.fullmatch(r"[a-z]+-[a-z]+", path.stem):
            found.add(f"{_nameless_suite(path.parents[1])}:{path.stem}")
    return sorted(found)
