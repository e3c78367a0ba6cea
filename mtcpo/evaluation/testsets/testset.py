"""A test set: its record, what every way to load one shares, and test sets in files of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import Field, model_validator

from mtcpo.core.config import Config, PathOrName
from mtcpo.core.errors import UserError, choose
from mtcpo.data.aligned import read_aligned
from mtcpo.data.names import check_name
from mtcpo.data.records import Segment
from mtcpo.translation.config import TranslateConfig

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class TestSet:
    """Segments of one language pair.

    origin: where they come from: files, or sacreBLEU's name for them. submitted: outputs of the systems that took
    part, by system, where they were asked for. metrics, decoding: what its suite measures it by and how it is
    translated; None where it belongs to no suite or the suite does not say.
    """

    __test__: ClassVar[bool] = False  # a record, whatever pytest thinks of its name

    name: str
    src_lang: str
    tgt_lang: str
    segments: tuple[Segment, ...]
    origin: str
    reference_names: tuple[str, ...] = ()
    submitted: Mapping[str, Sequence[str]] = field(default_factory=dict)
    metrics: tuple[str, ...] | None = None
    decoding: TranslateConfig | None = None

    @property
    def pair(self) -> str:
        """The languages as in "en-de"."""
        return f"{self.src_lang}-{self.tgt_lang}"


class TestSetConfig(Config):
    """A test set in files: line-aligned text, one segment a line."""

    __test__: ClassVar[bool] = False

    name: str = Field(description="What it is called in evaluation.json and in translations/")
    source: PathOrName = Field(description="The text to translate")
    references: tuple[PathOrName, ...] = Field(
        (), description="Human translations; several files are several references"
    )
    reference_names: tuple[str, ...] = Field((), description="What they are called; default: the names of their files")
    src_lang: str = Field(description="Language of the source, BCP-47")
    tgt_lang: str = Field(description="Language of the references, BCP-47")

    @model_validator(mode="after")
    def _names_fit(self) -> TestSetConfig:
        names = self.reference_names
        if names and len(names) != len(self.references):
            raise ValueError(f"{len(names)} reference_names for {len(self.references)} references; name each")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two references are named {twice!r}; give each a name of its own")
        return self


@dataclass(frozen=True, slots=True)
class Spec:
    """A test set as it is named: `SUITE:SRC-TGT`, or `SUITE:SRC-TGT:REF,REF` with references by name, or `:all`."""

    suite: str
    src: str
    tgt: str
    references: tuple[str, ...] = ()

    @property
    def pair(self) -> str:
        """The languages as they were written."""
        return f"{self.src}-{self.tgt}"

    @property
    def name(self) -> str:
        """What the test set is called in results: `wmt21/AB` is a folder's name as `wmt21_AB`."""
        return self.suite.replace("/", "_")


def parse_spec(text: str) -> Spec:
    """Parse `wmt22:de-en` or `wmt22:de-en:A,B`.

    Raises:
        UserError: not of this form.
    """
    suite, _, rest = text.partition(":")
    pair, _, wanted = rest.partition(":")
    src, _, tgt = pair.partition("-")
    if not suite or not src or not tgt or not re.fullmatch(r"[\w-]+", pair):
        raise UserError(f"test set {text!r}: write it as SUITE:SRC-TGT, for example wmt22:de-en")
    return Spec(suite, src, tgt, tuple(name for name in wanted.split(",") if name))


def load_local_set(config: TestSetConfig) -> TestSet:
    """Load a test set from line-aligned files."""
    files = [Path(config.source), *(Path(reference) for reference in config.references)]
    labels = config.reference_names or tuple(path.name for path in files[1:])
    name = check_name("test set", config.name)
    return make_test_set(name, config.src_lang, config.tgt_lang, read_columns(files), files[0].name, labels)


def plain_label(name: str) -> str:
    """Return `A` for the names that different years give a reference: `A`, `refA`, `ref-A`."""
    return re.sub(r"^ref-?(?=.)", "", name)


def choose_references(spec: Spec, there: Mapping[str, Value], default: Sequence[str]) -> dict[str, Value]:
    """Return the wanted of the references that are there: those that the spec names, else the default ones, else all.

    The name `all` stands for all of them.

    Raises:
        UserError: one is named twice, or is not there; the message lists those that are.
    """
    wanted = list(there) if spec.references == ("all",) else [plain_label(name) for name in spec.references]
    for name in wanted:
        if wanted.count(name) > 1:
            raise UserError(f"{spec.suite}:{spec.pair}: reference {name!r} is named twice; name it once")
        if name not in there:
            raise choose(f"reference of {spec.suite}:{spec.pair}", name, [label or "(unnamed)" for label in there])
    wanted = wanted or [name for name in map(plain_label, default) if name in there] or list(there)
    return {name: there[name] for name in wanted}


def read_columns(files: Sequence[Path]) -> list[list[str]]:
    """Read files that are aligned line by line, and have at least one line; return the lines of each.

    Raises:
        UserError: the files have different numbers of lines, or none.
    """
    rows = list(read_aligned(files))
    if not rows:
        raise UserError(f"{files[0]}: empty; a test set needs at least one line")
    return [list(column) for column in zip(*rows, strict=True)]


def make_test_set(
    name: str,
    src_lang: str,
    tgt_lang: str,
    columns: Sequence[Sequence[str]],
    origin: str,
    reference_names: tuple[str, ...],
    docs: Sequence[str] | None = None,
) -> TestSet:
    """Make the record of columns: the source, then the references.

    Raises:
        UserError: more or fewer names of documents than segments.
    """
    if docs is not None and len(docs) != len(columns[0]):
        raise UserError(f"{origin}: {len(docs)} document names for {len(columns[0])} segments; fetch it again")
    segments = tuple(
        Segment(
            id=f"{name}:{src_lang}-{tgt_lang}:{number}",
            src_lang=src_lang,
            tgt_lang=tgt_lang,
            source=source,
            references=tuple(references),
            doc=docs[number - 1] if docs is not None else None,
        )
        for number, (source, *references) in enumerate(zip(*columns, strict=True), start=1)
    )
    return TestSet(name, src_lang, tgt_lang, segments, origin, reference_names)
