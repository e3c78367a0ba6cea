"""Tokenized examples on disk: cut once, found again by all that they depend on, and read through a memory map.

They lie in the cache of the library `datasets` (HF_DATASETS_CACHE), where users expect such data and have made room for
it: trainings of one data set, interrupted or with other losses, and all processes of one training share them. A folder
for each key, with two arrays, the token ids of all sequences one after the other and where each of them ends, and what
there is to report; it has its name when it is complete. Nothing in it is needed: it may be deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any, overload

import numpy as np
from filelock import FileLock

from mtcpo.core.errors import UserError
from mtcpo.core.files import complete_folder, sha256_of, write_json
from mtcpo.core.outputs import DISK_FULL
from mtcpo.core.resources import PACKAGE
from mtcpo.models.layouts.base import Example, Layout
from mtcpo.models.prompts import TextExample

LOG = logging.getLogger(__name__)

IDS, ENDS, NOTES = "ids.int32", "ends.int64", "notes.json"

KEPT_SECONDS = 30 * 24 * 3600
"""What no training has used for so long is removed when something new is kept."""

CUTTERS = ("transformers", "tokenizers", "sentencepiece", "jinja2")
"""Packages that decide how a tokenizer cuts, beside its files; the last one fills chat templates."""

ELSEWHERE = "set the environment variable HF_DATASETS_CACHE to a folder elsewhere"

Notes = dict[str, Any]


class StoredExamples(Sequence[Example]):
    """Examples of a folder. parts: how many sequences an example has, its source among them."""

    def __init__(self, folder: Path, parts: int) -> None:
        self._folder, self._parts = folder, parts
        self._ids, self._ends = _mapped(folder / IDS, np.int32), _mapped(folder / ENDS, np.int64)

    def __len__(self) -> int:
        return (len(self._ends) - 1) // self._parts

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        first = places * self._parts
        ends = self._ends[first : first + self._parts + 1].tolist()
        source, *targets = (tuple(self._ids[start:end].tolist()) for start, end in pairwise(ends))
        return Example(source, tuple(targets))

    def __reduce__(self) -> tuple[type[StoredExamples], tuple[Path, int]]:
        """Let worker processes map the files themselves."""
        return StoredExamples, (self._folder, self._parts)


def _mapped(path: Path, dtype: type[np.generic]) -> Any:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, "r").view(np.ndarray) if path.stat().st_size else np.empty(0, dtype)


class Spool:
    """Texts in a file, where they can be read again; sha256: of all of them."""

    def __init__(self, file: IO[bytes], texts: Iterable[TextExample]) -> None:
        self._file = file
        digest = hashlib.sha256()
        for text in texts:
            fields = (text.source, text.src_lang, text.tgt_lang, text.targets, text.prompt, text.id)
            line = json.dumps(fields).encode() + b"\n"
            digest.update(line)
            file.write(line)
        self.sha256 = digest.hexdigest()

    def __iter__(self) -> Iterator[TextExample]:
        self._file.seek(0)
        for line in self._file:
            source, src_lang, tgt_lang, targets, prompt, name = json.loads(line)
            prompt = tuple(prompt) if isinstance(prompt, list) else prompt
            yield TextExample(source, src_lang, tgt_lang, tuple(targets), prompt, name)


@contextmanager
def spooled(texts: Iterable[TextExample]) -> Iterator[Spool]:
    """Give texts that can be read twice, once for their hash and once to be cut; none of them stays in memory.

    Raises:
        UserError: the cache's folder cannot be written.
    """
    # Not where temporary files are: that is memory on many machines.
    with TemporaryFile(dir=_cache()) as file, _explained():
        yield Spool(file, texts)


def cached(
    layout: Layout, texts: Spool, settings: Sequence[Any], cut: Callable[[Iterable[TextExample]], Iterator[Example]],
    notes: Callable[[], Notes],
) -> tuple[StoredExamples, Notes]:  # fmt: skip
    """Return the examples of texts, and what was noted of them, from the cache if they are there.

    Several processes may ask at once: one of them cuts, the others wait for it.

    Args:
        layout: what cuts.
        texts: what is cut.
        settings: what else decides which examples there are.
        cut: makes the examples.
        notes: gives the notes, once all examples have been made.

    Returns:
        The examples, and the notes with `sha256`, the hash of all their token ids.
    """
    place = _cache() / _key(layout, texts, settings)
    place.mkdir(exist_ok=True)
    folder = place / "examples"
    with FileLock(place / "lock"), _explained():
        found = _read(folder)
        if found is None:
            _forget_old(place.parent)
            with complete_folder(folder) as partial:
                _write(partial, cut(texts), notes)
            found = _read(folder)
        assert found is not None
        os.utime(folder / NOTES)
        return found


def _cache() -> Path:
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / "mtcpo"
    reason = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = str(error.strerror).lower()
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: tokenized data cannot be kept there ({reason or 'no permission'}); {ELSEWHERE}")
    return folder


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(f"{_cache()}: no space left on its disk for tokenized data; {ELSEWHERE}") from error


def _write(folder: Path, examples: Iterable[Example], notes_of: Callable[[], Notes]) -> None:
    end, parts = 0, set[int]()
    with (folder / IDS).open("wb") as ids, (folder / ENDS).open("wb") as ends:
        ends.write(array("q", [0]))
        for example in examples:
            sequences = (example.source, *example.targets)
            parts.add(len(sequences))
            for sequence in sequences:
                end += len(sequence)
                ids.write(array("i", sequence))
                ends.write(array("q", [end]))
    assert len(parts) <= 1, "examples with different numbers of targets make no batch"
    notes = notes_of() | {"parts": max(parts, default=1), "sha256": _sha256(folder)}
    write_json(folder / NOTES, {"notes": notes, "sha256": _sha256_of_notes(notes)})


def _read(folder: Path) -> tuple[StoredExamples, Notes] | None:
    """Return what is in a folder; None if it is not there, or with a message if it is damaged."""
    if not folder.exists():
        return None
    try:
        stored = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        notes: Notes = stored["notes"]
        if stored["sha256"] == _sha256_of_notes(notes) and notes["sha256"] == _sha256(folder):
            return StoredExamples(folder, notes["parts"]), notes
        reason = "its hash is another"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    LOG.warning("%s: the tokenized data in it is damaged (%s); rebuilding it", folder, reason)
    return None


def _sha256(folder: Path) -> str:
    return hashlib.sha256("".join(sha256_of(folder / name) for name in (IDS, ENDS)).encode()).hexdigest()


def _sha256_of_notes(notes: Notes) -> str:
    return hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()


def _forget_old(cache: Path) -> None:
    for notes in cache.glob(f"*/examples/{NOTES}"):
        if time.time() - notes.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(notes.parents[1], ignore_errors=True)


# --- what examples depend on ----------------------------------------------------------------------------------------


def _key(layout: Layout, texts: Spool, settings: Sequence[Any]) -> str:
    parts = [
        _our_code(),
        _versions(),
        _tokenizer(layout.tokenizer),
        layout.tokenization_key(),
        list(settings),
        texts.sha256,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def _our_code() -> str:
    """Hash the package: with each change of its code, the next training cuts anew."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _versions() -> list[str]:
    return [f"{name} {metadata.version(name)}" for name in CUTTERS]


def _tokenizer(tokenizer: Any) -> str:
    """Hash a tokenizer as it is, whatever it was loaded from and has been given since: the files that it writes."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return sha256_of(Path(folder))
