"""Test sets by sacreBLEU's names, from its cache or download, checked at every load.

sacreBLEU checks an archive only when it fetches it: a truncated archive, a half-unpacked member or a half-written text
file is then taken for a shorter test set. So the archive's checksum and the sizes of its unpacked members are compared
at every load, and the texts are extracted again instead of being taken from the cache.
"""

from __future__ import annotations

import copy
import hashlib
import socket
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, choose, nearest
from mtcpo.evaluation.testsets.testset import TestSetFiles, TestSetSpec, plain_label

DOWNLOAD_TIMEOUT = 60.0
"""Seconds without a response after which a test set's download is given up."""

DOWNLOAD_ERRORS = (
    OSError,  # no network, disk full; also after a partly unpacked archive
    HTTPException,
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    SyntaxError,  # parent of lxml's XMLSyntaxError: a truncated raw file
    SystemExit,  # sacreBLEU's answer to a wrong checksum
)

NO_SYSTEMS = ("src", "docid", "origlang", "domain", "genre")
"""Fields of a sacreBLEU data set that are neither references nor outputs of systems."""


def known_sets() -> Mapping[str, Any]:
    """Return sacreBLEU's data sets: name -> data set."""
    from sacrebleu.dataset import DATASETS

    return DATASETS


def default_references(spec: TestSetSpec) -> list[str]:
    """Return the references that sacreBLEU uses by default, so that a name means the same scores everywhere."""
    dataset = known_sets().get(spec.suite)
    if dataset is None:
        return []
    files_of_pair = dataset.langpairs.get(spec.pair)
    default = dataset.kwargs.get("refs", [])
    return list(files_of_pair.get("refs", default) if isinstance(files_of_pair, dict) else default)


def find(spec: TestSetSpec, folder: Path, where_to_put: str) -> TestSetFiles:
    """Extract the texts of a test set that sacreBLEU knows into an empty folder; return their files.

    Args:
        spec: The test set.
        folder: Empty folder for the texts.
        where_to_put: How to provide the files without sacreBLEU, for the message if the download fails.

    Raises:
        UserError: unknown name or language pair, damaged cache, or failed download.
    """
    datasets = known_sets()
    if spec.suite not in datasets:
        hint = nearest(spec.suite, datasets)
        raise UserError(f"unknown test set {spec.suite!r}{hint}; run sacrebleu --list to see all of them")
    if spec.pair not in datasets[spec.suite].langpairs:
        raise choose(f"language pair of {spec.suite}", spec.pair, datasets[spec.suite].langpairs)
    dataset = CachedDataset(datasets[spec.suite])
    # Before the download, because sacreBLEU does not replace an existing truncated archive; and again after it.
    dataset.check_archives()
    try:
        with _download_timeout():
            dataset.extract_into(folder)
            dataset.check_archives()
            return dataset.files(spec, folder)
    except DOWNLOAD_ERRORS as error:
        raise UserError(_explain_failure(dataset, spec, error, where_to_put)) from None


@dataclass(frozen=True, slots=True)
class CachedDataset:
    """A sacreBLEU data set in its cache. Only this class uses private names of sacreBLEU.

    The public interface can neither check the cache nor extract the texts to another folder.
    """

    dataset: Any

    def _private(self, name: str) -> Any:
        try:
            return getattr(self.dataset, name)
        except AttributeError:
            from sacrebleu import __version__

            raise UserError(
                f"sacreBLEU {__version__} has no Dataset.{name}, by which its downloads are checked; install a version "
                "that mtcpo supports (pip install 'sacrebleu<3'), or pass --test-set-dir DIR"
            ) from None

    @property
    def folder(self) -> Path:
        """The folder of its texts, with the archives in `raw`."""
        return Path(self._private("_outdir"))

    @property
    def raw_folder(self) -> Path:
        """The folder of its archives and their unpacked members."""
        return Path(self._private("_rawdir"))

    def archives(self) -> list[tuple[Path, str | None]]:
        """Return (path, MD5 if sacreBLEU knows it) of each archive, whether it exists or not."""
        file_name = self._private("_get_tarball_filename")
        checksums = self.dataset.md5 or [None] * len(self.dataset.data)
        archives = []
        for url, md5 in zip(self.dataset.data, checksums, strict=True):
            archives.append((self.raw_folder / file_name(url), md5))
        return archives

    def check_archives(self) -> None:
        """Compare every existing archive with its checksum, and its unpacked members with its contents.

        Raises:
            UserError: one of them is damaged.
        """
        for archive, md5 in self.archives():
            if archive.is_file() and (state := archive.stat()).st_size:
                _check_archive(archive, md5, self.raw_folder, (state.st_size, state.st_mtime_ns))

    def extract_into(self, folder: Path) -> None:
        """Extract the texts from the archives into a folder; missing archives are downloaded."""
        # A copy: the data set is a global object of sacreBLEU, and another call may use it.
        self._extracting(folder).maybe_download()

    def files(self, spec: TestSetSpec, folder: Path) -> TestSetFiles:
        """Return the files that `extract_into` wrote for a language pair."""
        extracted = self._extracting(folder)
        default = {Path(path) for path in extracted.get_reference_files(spec.pair)}
        fields = zip(extracted.fieldnames(spec.pair), map(Path, extracted.get_files(spec.pair)), strict=True)
        by_field = dict(fields)
        references: dict[str, Path] = {}
        systems: dict[str, Path] = {}
        for name, path in by_field.items():
            if name.startswith("ref"):  # "ref", or "ref:A"
                references[plain_label(name.partition(":")[2])] = path
            elif name not in NO_SYSTEMS:
                systems[name] = path
        return TestSetFiles(
            source=by_field["src"],
            references=references,
            origin=f"sacreBLEU {spec.suite}/{spec.pair}",
            systems=systems,
            default_references=[label for label, path in references.items() if path in default],
            docs=by_field.get("docid"),
        )

    def _extracting(self, folder: Path) -> Any:
        self._private("_outdir")  # fails if sacreBLEU no longer has it: setting it would then have no effect
        dataset = copy.copy(self.dataset)
        dataset._outdir = str(folder)
        return dataset


@contextmanager
def _download_timeout() -> Iterator[None]:
    """Set a default socket timeout: sacreBLEU's download has none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@lru_cache(maxsize=64)
def _check_archive(archive: Path, md5: str | None, raw: Path, state: tuple[int, int]) -> None:
    """Check one archive. `state` (size, mtime) is part of the cache key, so that a new archive is checked again."""
    way_out = f"delete {raw.parent} and try again with a network connection"
    if md5 is not None:
        with archive.open("rb") as file:
            actual = hashlib.file_digest(file, "md5").hexdigest()
        if actual != md5:
            raise UserError(f"{archive}: truncated or changed (MD5 {actual}, not {md5}); {way_out}")
    try:
        members = _members(archive)
    except (EOFError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive}: a damaged archive ({error}); {way_out}") from None
    for name, size in members.items():
        path = raw / name
        size_there = path.stat().st_size if path.is_file() else None
        if size_there != size:
            problem = "missing" if size_there is None else f"{size_there} bytes, not {size}"
            raise UserError(f"{path}: {problem}, as after an interrupted download; {way_out}")


def _members(archive: Path) -> dict[str, int]:
    """Return name -> size of an archive's members, for the archive types that sacreBLEU unpacks, else {}."""
    sizes = {}
    if archive.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile():
                    sizes[member.name] = member.size
    elif archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir():
                    sizes[info.filename] = info.file_size
    return sizes


def _explain_failure(dataset: CachedDataset, spec: TestSetSpec, error: BaseException, where_to_put: str) -> str:
    reason = str(error) or type(error).__name__
    folder = dataset.folder
    text = next(iter(sorted(folder.glob(f"*.{spec.pair}.*"))), None)
    state = f"not in {folder.parent}"
    if text is not None:
        state = f"there is no archive beside {text} to verify it against"
    return (
        f"test set {spec.suite}:{spec.pair}: {state}, and the download failed ({reason}); "
        f"pass --test-set-dir DIR with {where_to_put}, or delete {folder} and try again with a network connection"
    )
