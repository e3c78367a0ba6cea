"""Reading corpora of every supported format as streams of segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mtcpo.core.errors import UserError
from mtcpo.core.files import Row
from mtcpo.data.aligned import read_aligned
from mtcpo.data.config import CorpusConfig, SourceConfig
from mtcpo.data.file_formats.registry import is_table, is_text
from mtcpo.data.languages import check_language
from mtcpo.data.names import check_system_name
from mtcpo.data.records import Candidate, Segment, segment_from_json
from mtcpo.data.row_layouts import translation_segments
from mtcpo.data.rows import read_rows, rows_of
from mtcpo.data.templates import column_text, fill_template

Item = TypeVar("Item")

Drops = Counter[str]
"""How many segments were dropped, by reason. Readers add to it; reports print it."""


def parse_named_files(pairs: Iterable[str]) -> dict[str, str]:
    """Parse the `NAME=FILE` of the command line.

    Raises:
        UserError: not of this form, or two systems with the same name.
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


def read_corpus(
    config: CorpusConfig, drops: Drops | None = None, keep_empty: bool = False, items: Iterable[Any] | None = None
) -> Iterator[Segment]:
    """Yield the segments of a corpus. Segments with an empty source are dropped and counted in `drops`.

    keep_empty: keep them, for test sets, whose scores must count every line. items: rows or segments in memory, read
    instead of `config.source`.

    Raises:
        UserError: a file is missing, empty, not UTF-8, or not as long as the others.
    """
    drops = Drops() if drops is None else drops
    from_text = items is None and is_text(config.source)
    if not from_text and (config.references or config.hypotheses):
        raise UserError(
            f"{config.source}: separate files of references and hypotheses need a plain-text source; "
            "for this one, name their columns"
        )
    segments = _text_segments(config) if from_text else _row_segments(config, drops, items)
    is_empty = True
    for segment in segments:
        is_empty = False
        # White space alone counts as empty: a model would translate it into arbitrary text.
        if keep_empty or segment.source.strip():
            yield segment
        else:
            drops["empty_source"] += 1
    if is_empty:
        after = f" after the first {config.skip} rows" if config.skip else ""
        raise UserError(f"{config.source}: it has no segments{after}; a corpus needs at least one")


def rows_to_read(config: SourceConfig, items: Iterable[Any] | None, drops: Drops | None = None) -> Iterator[Row]:
    """Yield the rows of `items`, or of the source if `items` is None: skip `skip` rows, then at most `take`.

    drops: counts an incomplete last line; see `read_json_lines`.
    """
    if items is None:
        return _window(read_rows(config.source, config.subset, config.split, config.options, drops), config)
    return _window(rows_of(items, config.source), config)


def _window(rows: Iterator[Item], config: SourceConfig) -> Iterator[Item]:
    return islice(rows, config.skip, None if config.take is None else config.skip + config.take)


def row_id(row: Mapping[str, Any], where: str) -> str:
    """Return the row's own id or, without one, an id made of its file's name and its number."""
    value = row.get("id")
    return str(value) if isinstance(value, (str, int)) and value != "" else where.rpartition("/")[2]


# --- plain text -------------------------------------------------------------------------------------------------------


def _text_segments(config: CorpusConfig) -> Iterator[Segment]:
    """Yield the segments of line-aligned text files."""
    if config.src_lang is None or config.tgt_lang is None:
        raise UserError(f"{config.source}: plain text does not name its languages; give src_lang and tgt_lang")
    paths = [Path(name) for name in (config.source, *config.references, *config.hypotheses.values())]
    # read_aligned yields texts in the order of the files: source, references, outputs.
    first_output = 1 + len(config.references)
    for number, texts in _window(enumerate(read_aligned(paths), start=1), config):
        outputs = zip(config.hypotheses, texts[first_output:], strict=True)
        yield Segment(
            id=f"{paths[0].name}:{number}",
            src_lang=config.src_lang,
            tgt_lang=config.tgt_lang,
            source=texts[0],
            references=texts[1:first_output],
            candidates=tuple(Candidate(system, text) for system, text in outputs),
        )


# --- rows -------------------------------------------------------------------------------------------------------------


def _row_segments(config: CorpusConfig, drops: Drops, items: Iterable[Any] | None) -> Iterator[Segment]:
    """Yield the segments of a file or data set of rows."""
    has_layout = not config.has_templates  # templates may use any fields, so the rows' layout does not matter
    may_be_records = has_layout and (items is not None or not is_table(config.source))
    for where, row in rows_to_read(config, items, drops):
        identifier = row_id(row, where)
        if has_layout and "translation" in row:
            segments = translation_segments(row, config.src_lang, config.tgt_lang, identifier, where)
            if not segments:
                drops["other_direction"] += 1
            yield from segments
        # A table may have columns src_lang and tgt_lang, but its cells are plain texts and cannot hold records.
        elif may_be_records and "src_lang" in row and "tgt_lang" in row:
            yield _record_segment({**row, "id": identifier}, config, where)
        else:
            yield _column_segment(row, config, identifier, where)


def _record_segment(row: Mapping[str, Any], config: CorpusConfig, where: str) -> Segment:
    segment = segment_from_json(row, where)
    for expected, language in ((config.src_lang, segment.src_lang), (config.tgt_lang, segment.tgt_lang)):
        if expected is not None and check_language(language) != expected:
            raise UserError(f"{where}: the segment's language is {language!r}, not {expected!r} as given")
    return segment


def _column_segment(row: Mapping[str, Any], config: CorpusConfig, identifier: str, where: str) -> Segment:
    if config.src_lang is None or config.tgt_lang is None:
        raise UserError(f"{where}: the row does not name its languages; give src_lang and tgt_lang")
    if config.source_template is None:
        source = column_text(row, config.source_column, "source_column", where)
    else:
        source = fill_template(config.source_template, row, where)
    return Segment(
        id=identifier,
        src_lang=config.src_lang,
        tgt_lang=config.tgt_lang,
        source=source,
        references=_references(row, config, where),
        doc=None if config.doc_column is None else str(row.get(config.doc_column)),
        candidates=_candidates(row, config, where),
    )


def _references(row: Mapping[str, Any], config: CorpusConfig, where: str) -> tuple[str, ...]:
    if config.reference_templates:
        return tuple(fill_template(template, row, where) for template in config.reference_templates)
    references = []
    for name in config.reference_columns:
        # The default column may be absent: monolingual text has no reference.
        if name in row or config.is_set("reference_columns"):
            references.append(column_text(row, name, "reference_columns", where))
    return tuple(references)


def _candidates(row: Mapping[str, Any], config: CorpusConfig, where: str) -> tuple[Candidate, ...]:
    candidates = []
    for system, column in config.hypothesis_columns.items():
        candidates.append(Candidate(system, column_text(row, column, "hypothesis_columns", where)))
    for system, template in config.hypothesis_templates.items():
        candidates.append(Candidate(system, fill_template(template, row, where)))
    return tuple(candidates)
