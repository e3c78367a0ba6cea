"""A test set: its record, its files, and the names of it and its references."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from mtcpo.core.config import Config, PathOrName
from mtcpo.core.errors import UserError, choose
from mtcpo.data.records import Segment
from mtcpo.translation.config import TranslateConfig

ALL_REFERENCES = "all"
"""In a spec, means all references: `wmt22:de-en:all`."""


@dataclass(frozen=True, slots=True)
class TestSet:
    """Segments of one language pair.

    origin: the files they were read from, or sacreBLEU's name. submitted: system -> outputs of the participating
    systems, if they were to be loaded. metrics, decoding: the suite's; None if there is no suite or it does not set
    them.
    """

    __test__: ClassVar[bool] = False  # tells pytest that this is not a test class

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

    name: str = Field(description="Its name in evaluation.json and in translations/")
    source: PathOrName = Field(description="File of the text to translate")
    references: tuple[PathOrName, ...] = Field((), description="Files of human translations, one for each reference")
    reference_names: tuple[str, ...] = Field(
        (), description="Names of the references; default: the names of their files"
    )
    src_lang: str = Field(description="Language of the source, BCP-47")
    tgt_lang: str = Field(description="Language of the references, BCP-47")

    @model_validator(mode="after")
    def _names_fit(self) -> TestSetConfig:
        names = self.reference_names
        if names and len(names) != len(self.references):
            raise ValueError(f"{len(names)} reference_names for {len(self.references)} references; name each")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two references are named {name!r}; give each its own name")
        return self


@dataclass(frozen=True, slots=True)
class TestSetSpec:
    """A parsed test set name: `SUITE:SRC-TGT`, or `SUITE:SRC-TGT:REF,REF` with references by name, or `:all`."""

    __test__: ClassVar[bool] = False

    suite: str
    src: str
    tgt: str
    references: tuple[str, ...] = ()

    @property
    def pair(self) -> str:
        """The language pair as the user wrote it."""
        return f"{self.src}-{self.tgt}"

    @property
    def name(self) -> str:
        """The test set's name in results: `wmt21_AB` for `wmt21/AB`, which would be a path."""
        return self.suite.replace("/", "_")


def parse_spec(text: str) -> TestSetSpec:
    """Parse `wmt22:de-en` or `wmt22:de-en:A,B`.

    Raises:
        UserError: not of this form.
    """
    # Split at the first hyphen only: the target may be pt-BR.
    suite, _, rest = text.partition(":")
    pair, _, references = rest.partition(":")
    src, _, tgt = pair.partition("-")
    if not suite or not src or not tgt or not re.fullmatch(r"[\w-]+", pair):
        raise UserError(f"test set {text!r}: write it as SUITE:SRC-TGT, for example wmt22:de-en")
    return TestSetSpec(suite, src, tgt, tuple(filter(None, references.split(","))))


@dataclass(frozen=True, slots=True)
class TestSetFiles:
    """The line-aligned files of a test set, from whatever source.

    references: label -> file; the label of a single unnamed one is "". default_references: labels to use if the spec
    names none; if none of them exists, all are used. systems: outputs of the participating systems. docs: file with
    the document name of each line. origin: as in `TestSet`.
    """

    __test__: ClassVar[bool] = False

    source: Path
    references: Mapping[str, Path]
    origin: str
    systems: Mapping[str, Path] = field(default_factory=dict)
    default_references: Sequence[str] = ()
    docs: Path | None = None


def plain_label(name: str) -> str:
    """Return `A` for a reference named `A`, `refA` or `ref-A`, as different years have it."""
    return re.sub(r"^ref-?(?=.)", "", name)


def choose_references(spec: TestSetSpec, files: TestSetFiles) -> dict[str, Path]:
    """Return the references that the spec names, else the default ones, else all.

    Raises:
        UserError: a reference is named twice, or does not exist; the message lists those that do.
    """
    if spec.references == (ALL_REFERENCES,):
        return dict(files.references)
    named = [plain_label(name) for name in spec.references]
    for name in named:
        if named.count(name) > 1:
            raise UserError(f"{spec.suite}:{spec.pair}: reference {name!r} is named twice; name it once")
        if name not in files.references:
            labels = [label or "(unnamed)" for label in files.references]
            raise choose(f"reference of {spec.suite}:{spec.pair}", name, labels)
    # A folder may lack the references that sacreBLEU uses by default.
    default = [name for name in map(plain_label, files.default_references) if name in files.references]
    chosen = named or default or list(files.references)
    return {name: files.references[name] for name in chosen}
