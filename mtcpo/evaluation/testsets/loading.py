"""Load a test set: find its files, choose its references, read them line by line in parallel.

The files come from a folder that the user names (`published.find`), from sacreBLEU (`sacrebleu.find`), or from the
user's own list; from there on, all are treated alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtcpo.core.errors import UserError
from mtcpo.core.files import read_lines
from mtcpo.data.aligned import read_aligned
from mtcpo.data.names import check_name
from mtcpo.data.records import Segment
from mtcpo.evaluation.testsets import published, sacrebleu
from mtcpo.evaluation.testsets.testset import (
    TestSet,
    TestSetConfig,
    TestSetFiles,
    TestSetSpec,
    choose_references,
    parse_spec,
)


def load_test_set(text: str, test_set_dir: Path | None = None, submitted: bool = False) -> TestSet:
    """Load `SUITE:SRC-TGT`, or `SUITE:SRC-TGT:REF,REF` with references by name, for example `wmt22:de-en:A,B`.

    Without `test_set_dir`, names are sacreBLEU's, and texts come from its cache or download; with it, only that folder
    is searched. If no references are named, those that sacreBLEU uses for this test set are taken, else all.

    Args:
        text: The test set's name.
        test_set_dir: A folder in one of the published layouts.
        submitted: Whether to load the outputs of the participating systems too.

    Raises:
        UserError: unknown name, pair or reference (the message suggests names), not available (the message says which
            files to put where), damaged, or files with different numbers of lines.
    """
    spec = parse_spec(text)
    if test_set_dir is not None:
        return _load(spec, published.find(spec, test_set_dir), submitted)
    published.check_downloadable(spec)
    # sacreBLEU extracts its texts into this folder; they are read before it is deleted.
    with tempfile.TemporaryDirectory() as folder:
        files = sacrebleu.find(spec, Path(folder), published.where_to_put(spec))
        return _load(spec, files, submitted)


def load_local_set(config: TestSetConfig) -> TestSet:
    """Load a test set from line-aligned files of the user's own.

    Raises:
        UserError: a file is missing, empty or of another length, or the name is not valid as a file name.
    """
    source, paths = Path(config.source), list(map(Path, config.references))
    labels = config.reference_names or tuple(path.name for path in paths)
    references = list(zip(labels, paths, strict=True))
    name = check_name("test set", config.name)
    return _read(name, (config.src_lang, config.tgt_lang), source, references, source.name)


def _load(spec: TestSetSpec, files: TestSetFiles, submitted: bool) -> TestSet:
    references = list(choose_references(spec, files).items())
    systems = files.systems if submitted else {}
    languages = published.languages_of(spec)
    return _read(spec.name, languages, files.source, references, files.origin, systems, files.docs)


def _read(
    name: str,
    languages: tuple[str, str],
    source: Path,
    references: Sequence[tuple[str, Path]],  # not a mapping: two of the user's files may share a name
    origin: str,
    systems: Mapping[str, Path] | None = None,
    docs: Path | None = None,
) -> TestSet:
    """Read line-aligned files as a test set. references: (label, file)."""
    systems = systems or {}
    reference_files = [path for _, path in references]
    # All files together, so that a system's output of another length is found here too.
    sources, *columns = _read_columns([source, *reference_files, *systems.values()])
    reference_columns, outputs = columns[: len(references)], columns[len(references) :]
    documents: Sequence[str | None] = [None] * len(sources)
    if docs is not None:
        documents = list(read_lines(docs))
        if len(documents) != len(sources):
            raise UserError(f"{origin}: {len(documents)} document names for {len(sources)} segments; download it again")
    src_lang, tgt_lang = languages
    segments = []
    for index, text in enumerate(sources):
        segments.append(
            Segment(
                id=f"{name}:{src_lang}-{tgt_lang}:{index + 1}",  # line number, from 1
                src_lang=src_lang,
                tgt_lang=tgt_lang,
                source=text,
                references=tuple(column[index] for column in reference_columns),
                doc=documents[index],
            )
        )
    return TestSet(
        name=name,
        src_lang=src_lang,
        tgt_lang=tgt_lang,
        segments=tuple(segments),
        origin=origin,
        reference_names=tuple(label for label, _ in references),
        submitted=dict(zip(systems, outputs, strict=True)),
    )


def _read_columns(files: Sequence[Path]) -> list[list[str]]:
    """Return the lines of each of several aligned files; each must have at least one."""
    rows = list(read_aligned(files))
    if not rows:
        raise UserError(f"{files[0]}: empty; a test set needs at least one line")
    return list(map(list, zip(*rows, strict=True)))
