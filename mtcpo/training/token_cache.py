"""The token cache: tokenized examples on disk, keyed by a hash of everything they depend on, and memory-mapped.

It is inside the user's cache (`mtcpo/core/cache.py`). All processes of a training share it, and so do later trainings
on the same data, resumed or with other losses. Each key has a folder with two arrays (the concatenated token ids of all
sequences, and the end of each sequence) and with notes for reports; the folder is renamed when it is complete.

Not in the Arrow format of `datasets`: from here, an example is read in 5 to 9 microseconds.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
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

from mtcpo.core.cache import explained_if_full, forget_old, user_cache
from mtcpo.core.files import complete_folder, sha256_of, write_json
from mtcpo.core.progress import Progress, detail
from mtcpo.core.resources import PACKAGE
from mtcpo.models.layouts.base import Example, Layout
from mtcpo.models.prompts import TextExample

LOG = logging.getLogger(__name__)

IDS, ENDS, NOTES = "ids.int32", "ends.int64", "notes.json"

TOKENIZER_PACKAGES = ("transformers", "tokenizers", "sentencepiece", "jinja2")
"""Packages that, besides a tokenizer's files, determine a text's token ids; jinja2 fills chat templates."""

CONTENT = "tokenized data"
"""What is stored in the cache, for messages."""

Notes = dict[str, Any]
"""Notes on tokenized texts for reports: drops, languages, hashes."""


class StoredExamples(Sequence[Example]):
    """The examples in a folder. parts: number of sequences of an example, source included."""

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
        # range handles negative indices, slices, and the error for an index out of range.
        positions = range(len(self))[index]
        if isinstance(positions, range):
            return [self[position] for position in positions]
        first = positions * self._parts
        ends = self._ends[first : first + self._parts + 1].tolist()
        source, *targets = (tuple(self._ids[start:end].tolist()) for start, end in pairwise(ends))
        return Example(source, tuple(targets))

    def __reduce__(self) -> tuple[type[StoredExamples], tuple[Path, int]]:
        """Pickle only the folder's name: worker processes map the files themselves."""
        return StoredExamples, (self._folder, self._parts)


def _mapped(path: Path, dtype: type[np.generic]) -> Any:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, "r").view(np.ndarray) if path.stat().st_size else np.empty(0, dtype)


class Spool:
    """Texts in a temporary file, which can be read repeatedly. count: of texts. sha256: of all of them."""

    def __init__(self, file: IO[bytes], texts: Iterable[TextExample]) -> None:
        self._file = file
        self.count, digest = 0, hashlib.sha256()
        for text in texts:
            self.count += 1
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
    """Yield texts that can be read twice (for their hash, and to be tokenized) without being kept in memory.

    Raises:
        UserError: the cache's folder cannot be written.
    """
    # In the cache's folder: on many machines, the folder for temporary files is in memory.
    with TemporaryFile(dir=user_cache(CONTENT)) as file, explained_if_full(CONTENT):
        with Progress("reading examples", unit="examples") as progress:
            spool = Spool(file, progress.over(texts))
        yield spool


def cached_examples(
    layout: Layout,
    texts: Spool,
    settings: Sequence[Any],
    tokenize: Callable[[Iterable[TextExample]], Iterator[Example]],
    notes: Callable[[], Notes],
) -> tuple[StoredExamples, Notes]:
    """Return the examples of texts and the notes on them, from the cache if possible.

    If several processes ask at the same time, one tokenizes and the others wait.

    Args:
        layout: the model's layout, which tokenizes.
        texts: the texts to tokenize.
        settings: everything else that determines the examples, as JSON values.
        tokenize: texts -> examples.
        notes: returns the notes, once all examples have been yielded.

    Returns:
        The examples, and the notes with `sha256`, the hash of all their token ids.
    """
    entry = user_cache(CONTENT) / _key(layout, texts, settings)
    entry.mkdir(exist_ok=True)
    folder = entry / "examples"
    with FileLock(entry / "lock"), explained_if_full(CONTENT):
        stored = _read(folder)
        if stored is None:
            notes_files = entry.parent.glob(f"*/examples/{NOTES}")
            forget_old((file.parents[1], file) for file in notes_files)
            with complete_folder(folder) as partial, Progress("tokenizing", texts.count, "examples") as progress:
                _write(partial, tokenize(progress.over(texts)), notes)
            stored = _read(folder)
        assert stored is not None
        detail(f"tokenized examples: {folder}")
        os.utime(folder / NOTES)  # records the time of last use, for `forget_old`
        return stored


def _write(folder: Path, examples: Iterable[Example], notes_of: Callable[[], Notes]) -> None:
    """Write examples as they are yielded, then the notes, with the hashes of all files."""
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
    """Return the content of a folder; None if it does not exist or is damaged (which is logged)."""
    if not folder.exists():
        return None
    try:
        stored = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        notes: Notes = stored["notes"]
        if stored["sha256"] == _sha256_of_notes(notes) and notes["sha256"] == _sha256(folder):
            return StoredExamples(folder, notes["parts"]), notes
        reason = "its hash differs"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    LOG.warning("%s: the tokenized data in it is damaged (%s); rebuilding it", folder, reason)
    return None


def _sha256(folder: Path) -> str:
    return hashlib.sha256("".join(sha256_of(folder / name) for name in (IDS, ENDS)).encode()).hexdigest()


def _sha256_of_notes(notes: Notes) -> str:
    return hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()


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
    """Hash mtcpo's code: after any change, the next training tokenizes again."""
    # All packages: layouts, prompts and languages affect a text's tokens.
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _versions() -> list[str]:
    return [f"{name} {metadata.version(name)}" for name in TOKENIZER_PACKAGES]


def _tokenizer(tokenizer: Any) -> str:
    """Hash the files that a tokenizer saves: it may have changed since it was loaded."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return sha256_of(Path(folder))
