"""Test sets by sacreBLEU's names, from its cache or by its download, none of it believed unchecked.

sacreBLEU checks an archive when it fetches it, and never again: an archive that was cut, a file of it that was half
unpacked, or a text file that was half written are all taken for shorter test sets. So the archive's checksum and the
sizes of what was unpacked are compared at every load, and the text is made anew from the archive, not taken as found.
"""

from __future__ import annotations

import copy
import hashlib
import socket
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, choose, nearest
from mtcpo.core.files import read_lines
from mtcpo.evaluation.testsets.testset import Spec, TestSet, choose_references, make_test_set, plain_label, read_columns

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

NO_SYSTEMS = ("src", "docid", "origlang", "domain", "genre")
"""Fields of a sacreBLEU data set that are neither references nor outputs of systems."""


def known_sets() -> Mapping[str, Any]:
    """Return sacreBLEU's data sets by name."""
    from sacrebleu.dataset import DATASETS

    return DATASETS


def default_references(spec: Spec) -> list[str]:
    """Return the names of the references that sacreBLEU takes, so that a name means the same numbers everywhere."""
    dataset = known_sets().get(spec.suite)
    if dataset is None:
        return []
    of_pair = dataset.langpairs.get(spec.pair)
    default = dataset.kwargs.get("refs", [])
    return list(of_pair.get("refs", default) if isinstance(of_pair, dict) else default)


def load_from_sacrebleu(spec: Spec, where_to_put: str, submitted: bool = False) -> TestSet:
    """Load a test set that sacreBLEU knows.

    Args:
        spec: What is wanted.
        where_to_put: How the files can be had without sacreBLEU, for the message where they cannot be downloaded.
        submitted: Load the outputs of submitted systems too, where the data set has them.

    Raises:
        UserError: an unknown name, pair or reference, a damaged cache, or no way to download.
    """
    known = known_sets()
    if spec.suite not in known:
        hint = nearest(spec.suite, known)
        raise UserError(f"unknown test set {spec.suite!r}{hint}; sacrebleu --list names those it knows")
    dataset = known[spec.suite]
    if spec.pair not in dataset.langpairs:
        raise choose(f"language pair of {spec.suite}", spec.pair, dataset.langpairs)
    _check_archives(dataset)  # one that was cut is there already, and nothing would be fetched
    with tempfile.TemporaryDirectory() as folder:
        fresh = copy.copy(dataset)
        fresh._outdir = folder
        try:
            with _download_timeout():
                fresh.maybe_download()
                _check_archives(dataset)
                files = dict(zip(fresh.fieldnames(spec.pair), map(Path, fresh.get_files(spec.pair)), strict=True))
                default = {Path(path) for path in fresh.get_reference_files(spec.pair)}
        except DOWNLOAD_ERRORS as error:
            raise UserError(_not_to_be_had(dataset, spec, error, where_to_put)) from None
        return _read(spec, files, default, submitted)


def _read(spec: Spec, files: Mapping[str, Path], default: set[Path], submitted: bool) -> TestSet:
    references = {plain_label(name.partition(":")[2]): path for name, path in files.items() if name.startswith("ref")}
    chosen = choose_references(spec, references, [name for name, path in references.items() if path in default])
    systems = {
        name: path for name, path in files.items() if name not in NO_SYSTEMS and not name.startswith("ref")
    } if submitted else {}  # fmt: skip
    source, *others = read_columns([files["src"], *chosen.values(), *systems.values()])
    docs = list(read_lines(files["docid"])) if "docid" in files else None
    columns, outputs = [source, *others[: len(chosen)]], others[len(chosen) :]
    origin = f"sacreBLEU {spec.suite}/{spec.pair}"
    test_set = make_test_set(spec.name, spec.src, spec.tgt, columns, origin, tuple(chosen), docs)
    return replace(test_set, submitted=dict(zip(systems, outputs, strict=True)))


@contextmanager
def _download_timeout() -> Iterator[None]:
    """Let no socket wait for ever: sacreBLEU's download sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _check_archives(dataset: Any) -> None:
    """Compare every archive that is there with its checksum, and what was unpacked of it with what is in it."""
    raw = Path(dataset._rawdir)
    for url, md5 in zip(dataset.data, dataset.md5 or [None] * len(dataset.data), strict=True):
        archive = raw / dataset._get_tarball_filename(url)
        if archive.is_file() and (state := archive.stat()).st_size:
            _check_archive(archive, md5, raw, (state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=64)
def _check_archive(archive: Path, md5: str | None, raw: Path, state: tuple[int, int]) -> None:
    """Check one archive; `state`, its size and time, is there so that one that was replaced is checked again."""
    way_out = f"delete {raw.parent} and try again with a network"
    if md5 is not None:
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            raise UserError(f"{archive}: cut short or changed (MD5 {found}, not {md5}); {way_out}")
    try:
        members = _members(archive)
    except (EOFError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive}: a damaged archive ({error}); {way_out}") from None
    for name, size in members.items():
        path = raw / name
        there = path.stat().st_size if path.is_file() else None
        if there != size:
            what = "not there" if there is None else f"{there} bytes, not {size}"
            raise UserError(f"{path}: {what}, as after an interrupted download; {way_out}")


def _members(archive: Path) -> dict[str, int]:
    """Return name and size of the files in an archive of the kinds that sacreBLEU unpacks; others are no archives."""
    if archive.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(archive) as tar:
            return {member.name: member.size for member in tar if member.isfile()}
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            return {member.filename: member.file_size for member in packed.infolist() if not member.is_dir()}
    return {}


def _not_to_be_had(dataset: Any, spec: Spec, error: BaseException, where_to_put: str) -> str:
    reason = str(error) or type(error).__name__
    folder = Path(dataset._outdir)
    texts = next(iter(sorted(folder.glob(f"*.{spec.pair}.*"))), None)
    state = f"not in {folder.parent}" if texts is None else f"{texts} has no archive beside it to be checked against"
    return (
        f"test set {spec.suite}:{spec.pair}: {state}, and the download failed ({reason}); "
        f"pass --test-set-dir DIR with {where_to_put}, or delete {dataset._outdir} and try again with a network"
    )
