"""Reading corpora and preference sets, in every format that people have, as streams of records."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from mtcpo.config import Config, PathOrName
from mtcpo.errors import UserError, choose
from mtcpo.files import count_lines, read_json_lines, read_lines
from mtcpo.formats import preference_triplet, translation_segments, trl_row
from mtcpo.languages import check_language
from mtcpo.records import Candidate, Segment, Triplet, segment_from_json, triplet_from_json

Drops = Counter[str]
"""How many segments were dropped, by reason. Readers add to it; reports print it."""

ROW_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet")
TABLE_SUFFIXES = {".tsv": "\t", ".tsv.gz": "\t", ".tsv.zst": "\t", ".csv": ",", ".csv.gz": ",", ".csv.zst": ","}


def _valid_language(tag: str) -> str:
    try:
        return check_language(tag)
    except UserError as error:
        raise ValueError(str(error)) from None


def _valid_system(name: str) -> str:
    try:
        return check_system_name(name)
    except UserError as error:
        raise ValueError(str(error)) from None


Language = Annotated[str, AfterValidator(_valid_language)]
SystemName = Annotated[str, AfterValidator(_valid_system)]


class CorpusConfig(Config):
    """Where a corpus is: source, references and systems' outputs, as files or as columns of one file.

    source: line-aligned text, TSV/CSV with a header, JSON Lines or Parquet (segments, columns, or translation rows),
    or a data set's directory or hub name. references and hypotheses: text files line by line beside a text source.
    The columns count for TSV/CSV and for rows that are neither segments nor translation pairs.
    skip, take: of the rows, before anything is dropped.
    """

    source: PathOrName
    references: tuple[PathOrName, ...] = ()
    hypotheses: dict[SystemName, PathOrName] = Field(default_factory=dict)
    src_lang: Language | None = None
    tgt_lang: Language | None = None
    source_column: str = "source"
    reference_columns: tuple[str, ...] = ("reference",)
    hypothesis_columns: dict[SystemName, str] = Field(default_factory=dict)
    doc_column: str | None = None
    subset: str | None = None
    split: str = "train"
    skip: int = Field(0, ge=0)
    take: int | None = Field(None, ge=1)


def check_system_name(name: str) -> str:
    """Return `name` if it can name a system, and so a file of its translations.

    Raises:
        UserError: it is empty, or could reach out of its folder.
    """
    if not name or name.startswith(".") or any(c in '/\\:"' or not c.isprintable() for c in name):
        raise UserError(f"system name {name!r}: write it without path separators, colons, quotes or a leading dot")
    return name


def parse_named_files(pairs: Iterable[str]) -> dict[str, str]:
    """Parse the `NAME=FILE` of the command line.

    Raises:
        UserError: not of this form, or two systems of one name.
    """
    files: dict[str, str] = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not equals or not file:
            raise UserError(f"{pair!r}: write it as NAME=FILE, for example --hyp baseline=baseline.txt")
        if check_system_name(name) in files:
            raise UserError(f"two systems are named {name!r} ({files[name]} and {file}); give each its own name")
        files[name] = file
    return files


def read_corpus(config: CorpusConfig, drops: Drops | None = None, keep_empty: bool = False) -> Iterator[Segment]:
    """Yield the segments of a corpus. Segments with an empty source are dropped and counted in `drops`.

    keep_empty: keep them, for test sets whose scores must count every line.

    Raises:
        UserError: a file is missing, empty, not UTF-8, or of another length than the others.
    """
    drops = Drops() if drops is None else drops
    is_text = _is_file(config.source) and not config.source.endswith((*ROW_SUFFIXES, *TABLE_SUFFIXES))
    if not is_text and (config.references or config.hypotheses):
        raise UserError(
            f"{config.source}: references and hypotheses in files of their own go with a plain-text source; "
            "for this one name their columns"
        )
    rows = _text_rows(config) if is_text else _record_rows(config, drops)
    found = False
    for segment in rows:
        found = True
        if keep_empty or segment.source.strip():
            yield segment
        else:
            drops["empty_source"] += 1
    if not found:
        after = f" after the first {config.skip} rows" if config.skip else ""
        raise UserError(f"{config.source}: no segment in it{after}; a corpus needs at least one")


def _is_file(name: str) -> bool:
    """Whether `name` means a file, there or missing, and not a data set: hub names have no suffix of letters."""
    path = Path(name)
    if path.exists():
        return not path.is_dir()
    return name.startswith(("/", ".", "~")) or re.search(r"\.[A-Za-z]\w*$", name) is not None


def _window(rows: Iterator[Any], config: CorpusConfig) -> Iterator[Any]:
    return islice(rows, config.skip, None if config.take is None else config.skip + config.take)


def _text_rows(config: CorpusConfig) -> Iterator[Segment]:
    """Yield the segments of line-aligned text files."""
    if config.src_lang is None or config.tgt_lang is None:
        raise UserError(f"{config.source}: plain text does not say its languages; give src_lang and tgt_lang")
    paths = [Path(name) for name in (config.source, *config.references, *config.hypotheses.values())]
    # Now, not after hours of scoring. A pipe can be read only once: its length is seen at its end.
    if all(path.is_file() for path in paths):
        _check_counts({str(path): count_lines(path) for path in paths})
    for number, (source, *others) in _window(enumerate(_aligned(paths), start=1), config):
        texts = others[len(config.references) :]
        yield Segment(
            id=f"{paths[0].name}:{number}",
            src_lang=config.src_lang,
            tgt_lang=config.tgt_lang,
            source=source,
            references=tuple(others[: len(config.references)]),
            candidates=tuple(Candidate(name, text) for name, text in zip(config.hypotheses, texts, strict=True)),
        )


def _check_counts(counts: Mapping[str, int]) -> None:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UserError(f"line counts differ: {listed}; the files must be aligned line by line")


def _aligned(paths: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    readers = [read_lines(path) for path in paths]
    for number, lines in enumerate(zip_longest(*readers)):
        if None in lines:
            _check_counts(
                {
                    str(path): number + (line is not None) + sum(1 for _ in reader)
                    for path, line, reader in zip(paths, lines, readers, strict=True)
                }
            )
        yield lines


def _record_rows(config: CorpusConfig, drops: Drops) -> Iterator[Segment]:
    """Yield the segments of a file or data set of rows."""
    rows = read_rows(config.source, config.subset, config.split, drops)
    is_table = config.source.endswith(tuple(TABLE_SUFFIXES))
    for where, row in _window(rows, config):
        row_id = _row_id(row, where)
        if "translation" in row:
            segments = translation_segments(row, config.src_lang, config.tgt_lang, row_id, where)
            if not segments:
                drops["other_direction"] += 1
            yield from segments
        elif not is_table and "src_lang" in row and "tgt_lang" in row:
            yield _own_segment(row, config, where)
        else:
            yield _column_segment(row, config, row_id, where)


def _row_id(row: Mapping[str, Any], where: str) -> str:
    """Return the row's own id, or the name of its file and its number."""
    own = row.get("id")
    return str(own) if isinstance(own, (str, int)) and own != "" else where.rpartition("/")[2]


def _own_segment(row: Mapping[str, Any], config: CorpusConfig, where: str) -> Segment:
    segment = segment_from_json(row, where)
    for wanted, language in ((config.src_lang, segment.src_lang), (config.tgt_lang, segment.tgt_lang)):
        if wanted is not None and check_language(language) != wanted:
            raise UserError(f"{where}: the segment's language is {language!r}, not {wanted!r} as given")
    return segment


def _column_segment(row: Mapping[str, Any], config: CorpusConfig, row_id: str, where: str) -> Segment:
    if config.src_lang is None or config.tgt_lang is None:
        raise UserError(f"{where}: the row does not say its languages; give src_lang and tgt_lang")

    def column(name: str, key: str) -> str:
        value = row.get(name)
        if not isinstance(value, str):
            has = f"; it has {', '.join(sorted(row))}" if name not in row else ", or its value is no text"
            raise UserError(f"{where}: no column {name!r}{has}; set {key}")
        return value

    # The default reference column may be absent: monolingual text has none.
    optional = CorpusConfig.model_fields["reference_columns"].default
    names = [name for name in config.reference_columns if name in row or config.reference_columns != optional]
    return Segment(
        id=row_id,
        src_lang=config.src_lang,
        tgt_lang=config.tgt_lang,
        source=column(config.source_column, "source_column"),
        references=tuple(column(name, "reference_columns") for name in names),
        doc=None if config.doc_column is None else str(row.get(config.doc_column)),
        candidates=tuple(
            Candidate(system, column(name, "hypothesis_columns")) for system, name in config.hypothesis_columns.items()
        ),
    )


def read_rows(
    name: str, subset: str | None = None, split: str = "train", drops: Drops | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", row) of a JSON Lines, Parquet, TSV or CSV file, or of a data set's directory or hub name.

    drops: where the cut last line of a JSON Lines file is counted; see `read_json_lines`.
    """
    path = Path(name)
    for suffix, delimiter in TABLE_SUFFIXES.items():
        if name.endswith(suffix):
            return _table_rows(path, delimiter)
    if name.endswith(ROW_SUFFIXES):
        return read_json_lines(path, drops)
    if _is_file(name):
        raise UserError(
            f"{path}: {'rows are needed: .jsonl, .parquet, .tsv or .csv' if path.exists() else 'no such file'}"
        )
    return _dataset_rows(name, subset, split)


def _table_rows(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = (line + "\n" for line in read_lines(path))
    if delimiter == "\t":
        # TSV in machine translation has no quoting: a lone quotation mark is a character of the sentence.
        table = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        table = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(table, [])
        if len(set(header)) < len(header):
            raise UserError(f"{path}:1: two columns have one name: {', '.join(header)}")
        for values in table:
            where = f"{path}:{table.line_num}"
            if len(values) != len(header):
                raise UserError(f"{where}: {len(values)} fields, but the header has {len(header)}: {', '.join(header)}")
            yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{table.line_num}: {error}") from None


def _dataset_rows(name: str, subset: str | None, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = _load_dataset(name, subset, split)
    for number, row in enumerate(rows, start=1):
        yield f"{name}:{number}", row


def _load_dataset(name: str, subset: str | None, split: str) -> Iterable[dict[str, Any]]:
    import datasets

    folder = Path(name)
    hub_log = logging.getLogger("huggingface_hub")
    level = hub_log.level
    hub_log.setLevel(logging.ERROR)  # without network it would log ten long lines of retries before our one
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name, subset, streaming=True)
    except Exception as error:  # the library raises some twenty kinds, from its own to the network's
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{name}: neither a file nor a data set that can be loaded ({type(error).__name__}: {reason}); "
            "check the name and its subset, or save it elsewhere with save_to_disk and give that directory"
        ) from error
    finally:
        hub_log.setLevel(level)
    if not isinstance(loaded, dict):
        return loaded  # type: ignore[no-any-return]
    if split not in loaded:
        raise choose(f"split of {name}", split, loaded)
    return loaded[split]  # type: ignore[no-any-return]


def read_triplets(
    name: str, drops: Drops | None = None, subset: str | None = None, split: str = "train"
) -> Iterator[Triplet]:
    """Yield the triplets of a file or data set: our own, TRL's preference sets, or X-ALMA's.

    Triplets without text, or whose chosen and rejected are equal, are dropped and counted in `drops`.

    Raises:
        UserError: another layout; for scored candidates the message names `mtcpo build-prefs`.
    """
    drops = Drops() if drops is None else drops
    found = False
    for where, row in read_rows(name, subset, split):
        found = True
        if "translation" in row or "candidates" in row:
            raise UserError(
                f"{where}: these are candidates, not triplets; choose pairs first: mtcpo build-prefs {name}"
            )
        own = "src_lang" in row and "rejected" in row
        triplet = triplet_from_json(row, where) if own else preference_triplet(row, _row_id(row, where), where)
        if not (triplet.chosen.strip() and triplet.rejected.strip() and (triplet.source.strip() or triplet.prompt)):
            drops["empty_text"] += 1
        elif triplet.chosen == triplet.rejected:
            drops["identical"] += 1
        else:
            yield triplet
    if not found:
        raise UserError(f"{name}: nothing in it; at least one triplet is needed")


def triplets_to_trl(triplets: Iterable[Triplet], template: str = "{source}") -> Iterator[dict[str, str]]:
    """Yield TRL's standard preference rows. template: the prompt with {source}, {src_name} and {tgt_name}."""
    for triplet in triplets:
        yield trl_row(triplet, template)
