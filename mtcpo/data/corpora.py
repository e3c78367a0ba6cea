"""Reading corpora, in every format that people have, as streams of segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from mtcpo.core.config import Checked, Config, PathOrName
from mtcpo.core.errors import UserError
from mtcpo.core.files import count_lines, read_lines
from mtcpo.core.user_code import CodeIfAllowed, is_user_code
from mtcpo.data.columns import check_template, column_text, fill_template
from mtcpo.data.formats import translation_segments
from mtcpo.data.languages import check_language
from mtcpo.data.names import check_system_name
from mtcpo.data.records import Candidate, Segment, segment_from_json
from mtcpo.data.rows import Row, is_table, is_text, read_rows, rows_of

Drops = Counter[str]
"""How many segments were dropped, by reason. Readers add to it; reports print it."""


Language = Annotated[str, Checked(check_language)]
SystemName = Annotated[str, Checked(check_system_name)]
Template = Annotated[str, Checked(check_template)]
CorpusSource = Annotated[PathOrName, CodeIfAllowed]


PAIR_TEXTS = ("source", "chosen", "rejected")
PAIR_FIELDS = tuple(f"{text}_{kind}" for text in PAIR_TEXTS for kind in ("column", "template"))
CORPUS_FIELDS = (
    "references", "hypotheses", "reference_columns", "reference_templates", "hypothesis_columns",
    "hypothesis_templates", "doc_column",
)  # fmt: skip


class CorpusConfig(Config):
    """Where a corpus is: source, references and systems' outputs, as files or as columns of one file.

    source: line-aligned text, TSV/CSV with a header, JSON Lines or Parquet (segments, columns, or translation rows),
    a data set's directory or hub name, or `python:package.module:Class`, which needs --allow-code.
    references and hypotheses: text files line by line beside a text source.
    The columns count for TSV/CSV and for rows that are neither segments nor translation pairs; templates such as
    "{title}. {body}" put a text together from columns of any rows, {{ and }} are braces. chosen and rejected: of
    preference sets, which have no references and outputs of systems. options: what a class of
    one's own is called with. skip, take: of the rows, before anything is dropped.
    """

    source: CorpusSource
    references: tuple[PathOrName, ...] = ()
    hypotheses: dict[SystemName, PathOrName] = Field(default_factory=dict)
    src_lang: Language | None = None
    tgt_lang: Language | None = None
    source_column: str = "source"
    source_template: Template | None = None
    reference_columns: tuple[str, ...] = ("reference",)
    reference_templates: tuple[Template, ...] = ()
    hypothesis_columns: dict[SystemName, str] = Field(default_factory=dict)
    hypothesis_templates: dict[SystemName, Template] = Field(default_factory=dict)
    chosen_column: str = "chosen"
    chosen_template: Template | None = None
    rejected_column: str = "rejected"
    rejected_template: Template | None = None
    doc_column: str | None = None
    subset: str | None = None
    split: str = "train"
    options: dict[str, Any] = Field(default_factory=dict)
    skip: int = Field(0, ge=0)
    take: int | None = Field(None, ge=1)

    @property
    def has_templates(self) -> bool:
        """Whether texts are put together from columns."""
        of_pairs = self.chosen_template or self.rejected_template
        return bool(self.source_template or self.reference_templates or self.hypothesis_templates or of_pairs)

    def given(self, names: Iterable[str]) -> list[str]:
        """Return which of the fields are set to something else than their defaults."""
        fields = CorpusConfig.model_fields
        return [name for name in names if getattr(self, name) != fields[name].get_default(call_default_factory=True)]

    @model_validator(mode="after")
    def _one_way_each(self) -> Self:
        plural = [("reference_columns", "reference_templates")]
        for column, template in [*((f"{name}_column", f"{name}_template") for name in PAIR_TEXTS), *plural]:
            if getattr(self, template) and self.given([column]):
                raise ValueError(f"give either {column} or {template}")
        twice = sorted(self.hypothesis_columns.keys() & self.hypothesis_templates.keys())
        if twice:
            raise ValueError(f"system {twice[0]!r} has a column and a template; give one of them")
        if self.options and not is_user_code(self.source):
            raise ValueError("options are for a class of your own, source = 'python:package.module:Class'")
        if self.has_templates and is_text(self.source):
            raise ValueError("templates put columns together, and plain text has none; give a table or rows")
        return self


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


def read_corpus(
    config: CorpusConfig, drops: Drops | None = None, keep_empty: bool = False, items: Iterable[Any] | None = None
) -> Iterator[Segment]:
    """Yield the segments of a corpus. Segments with an empty source are dropped and counted in `drops`.

    keep_empty: keep them, for test sets whose scores must count every line. items: rows or segments in memory, read
    in place of what `config.source` names.

    Raises:
        UserError: a file is missing, empty, not UTF-8, or of another length than the others.
    """
    drops = Drops() if drops is None else drops
    if strange := config.given(PAIR_FIELDS[2:]):
        raise UserError(f"{config.source}: {strange[0]} is for preference sets, which this is not read as")
    text = items is None and is_text(config.source)
    if not text and (config.references or config.hypotheses):
        raise UserError(
            f"{config.source}: references and hypotheses in files of their own go with a plain-text source; "
            "for this one name their columns"
        )
    rows = _text_rows(config) if text else _record_rows(config, drops, items)
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


def wanted_rows(config: CorpusConfig, items: Iterable[Any] | None, drops: Drops | None = None) -> Iterator[Row]:
    """Yield the wanted rows of `items`, or else of what the source names; `drops` counts a line that was cut."""
    if items is None:
        return _window(read_rows(config.source, config.subset, config.split, config.options, drops), config)
    return _window(rows_of(items, config.source), config)


def _record_rows(config: CorpusConfig, drops: Drops, items: Iterable[Any] | None) -> Iterator[Segment]:
    """Yield the segments of a file or data set of rows."""
    own = not config.has_templates and (items is not None or not is_table(config.source))
    for where, row in wanted_rows(config, items, drops):
        row_id = row_id_of(row, where)
        if "translation" in row and not config.has_templates:
            segments = translation_segments(row, config.src_lang, config.tgt_lang, row_id, where)
            if not segments:
                drops["other_direction"] += 1
            yield from segments
        elif own and "src_lang" in row and "tgt_lang" in row:
            yield _own_segment({**row, "id": row_id}, config, where)
        else:
            yield _column_segment(row, config, row_id, where)


def row_id_of(row: Mapping[str, Any], where: str) -> str:
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
        return column_text(row, name, key, where)

    def filled(template: str) -> str:
        return fill_template(template, row, where)

    # The default reference column may be absent: monolingual text has none.
    default = CorpusConfig.model_fields["reference_columns"].default
    names = [name for name in config.reference_columns if name in row or config.reference_columns != default]
    if config.reference_templates:
        references = tuple(map(filled, config.reference_templates))
    else:
        references = tuple(column(name, "reference_columns") for name in names)
    template = config.source_template
    outputs = {name: column(key, "hypothesis_columns") for name, key in config.hypothesis_columns.items()}
    outputs |= {name: filled(value) for name, value in config.hypothesis_templates.items()}
    return Segment(
        id=row_id,
        src_lang=config.src_lang,
        tgt_lang=config.tgt_lang,
        source=column(config.source_column, "source_column") if template is None else filled(template),
        references=references,
        doc=None if config.doc_column is None else str(row.get(config.doc_column)),
        candidates=tuple(Candidate(system, text) for system, text in outputs.items()),
    )
