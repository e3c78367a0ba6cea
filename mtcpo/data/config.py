"""Settings for reading a corpus or a preference set from files, data sets or custom code."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from mtcpo.core.config import Checked, Config, PathOrName
from mtcpo.core.user_code import CodeIfAllowed, is_user_code
from mtcpo.data.file_formats.registry import is_text
from mtcpo.data.languages import check_language
from mtcpo.data.names import check_system_name
from mtcpo.data.templates import check_template

Language = Annotated[str, Checked(check_language)]
SystemName = Annotated[str, Checked(check_system_name)]
Template = Annotated[str, Checked(check_template)]
RowSource = Annotated[PathOrName, CodeIfAllowed]


class SourceConfig(Config):
    """Where rows are read from, and which text in them is the source.

    source: a file (line-aligned text, TSV or CSV with a header, JSON Lines or Parquet with our records, columns, or
    translation rows), a data set's directory or hub name, or `python:package.module:name`, which needs --allow-code.
    source_column is used for TSV, CSV and rows of no known layout. A template such as "{title}. {body}" builds a text
    from several columns. subset, split: of a data set. options: keyword arguments for the custom code. skip, take: how
    many rows to skip and then to read at most, before anything is dropped.
    """

    source: RowSource
    src_lang: Language | None = None
    tgt_lang: Language | None = None
    source_column: str = "source"
    source_template: Template | None = None
    subset: str | None = None
    split: str = "train"
    options: dict[str, Any] = Field(default_factory=dict)
    skip: int = Field(0, ge=0)
    take: int | None = Field(None, ge=1)

    @property
    def has_templates(self) -> bool:
        """Whether texts are put together from columns."""
        return self.source_template is not None

    def is_set(self, name: str) -> bool:
        """Whether a field differs from its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True))

    def refuse_both(self, column: str, template: str) -> None:
        """Raise ValueError if both a column and a template are set for the same text."""
        if self.is_set(column) and self.is_set(template):
            raise ValueError(f"give either {column} or {template}")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self.refuse_both("source_column", "source_template")
        # Options only make sense for custom code; a file or a data set would silently ignore them.
        if self.options and not is_user_code(self.source):
            raise ValueError("options are for custom code, source = 'python:package.module:name'")
        if self.has_templates and is_text(self.source):
            raise ValueError("templates combine columns, and plain text has none; give a table or rows")
        return self


class CorpusConfig(SourceConfig):
    """A corpus: sources with references and systems' outputs, in separate files or as columns of one file.

    references, hypotheses: text files, aligned line by line with a plain-text source. doc_column: column with the name
    of a row's document.
    """

    references: tuple[PathOrName, ...] = ()
    hypotheses: dict[SystemName, PathOrName] = Field(default_factory=dict)
    reference_columns: tuple[str, ...] = ("reference",)
    reference_templates: tuple[Template, ...] = ()
    hypothesis_columns: dict[SystemName, str] = Field(default_factory=dict)
    hypothesis_templates: dict[SystemName, Template] = Field(default_factory=dict)
    doc_column: str | None = None

    @property
    def has_templates(self) -> bool:
        """Whether texts are put together from columns."""
        return super().has_templates or bool(self.reference_templates or self.hypothesis_templates)

    @model_validator(mode="after")
    def _one_way_to_each_text(self) -> Self:
        self.refuse_both("reference_columns", "reference_templates")
        # Unlike references, systems may mix: one by column, another by template.
        twice = sorted(self.hypothesis_columns.keys() & self.hypothesis_templates.keys())
        if twice:
            raise ValueError(f"system {twice[0]!r} has a column and a template; give one of them")
        return self


class PreferenceSetConfig(SourceConfig):
    """A preference set: triplets in mtcpo's layout, TRL's or X-ALMA's, or in columns named by the settings."""

    chosen_column: str = "chosen"
    chosen_template: Template | None = None
    rejected_column: str = "rejected"
    rejected_template: Template | None = None

    @property
    def has_templates(self) -> bool:
        """Whether texts are put together from columns."""
        templates = (self.chosen_template, self.rejected_template)
        return super().has_templates or templates != (None, None)

    @property
    def names_columns(self) -> bool:
        """Whether the settings name the columns of the texts; otherwise the rows' layout determines them."""
        # The default names do not count: known layouts have fields of the same names, which may hold conversations.
        columns = ("source_column", "chosen_column", "rejected_column")
        return self.has_templates or any(map(self.is_set, columns))

    @model_validator(mode="after")
    def _one_way_to_each_text(self) -> Self:
        self.refuse_both("chosen_column", "chosen_template")
        self.refuse_both("rejected_column", "rejected_template")
        return self
