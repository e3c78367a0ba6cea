"""Turn command-line values into checked sections of the configuration; other helpers of the commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mtcpo.cli.options import LanguageOptions
    from mtcpo.core.config import Config
    from mtcpo.data.config import CorpusConfig, PreferenceSetConfig
    from mtcpo.data.corpora import Drops

Section = TypeVar("Section", bound="Config")


def load_options(
    cls: type[Section], name: str, values: dict[str, Any], overrides: Iterable[str] = (), allow_code: bool = False
) -> Section:
    """Return a section of the configuration from a command's options (without unset ones) and its overrides.

    name: of the section in a recipe. `--set train.beta=0.2` and `--set beta=0.2` mean the same for "train". values: by
    key, with dots as in `--set`; see `settings_of`.

    Raises:
        UserError: a key or value is invalid.
    """
    from mtcpo.core.config import apply_overrides, load_section
    from mtcpo.core.progress import detail

    sections: dict[str, Any] = {}
    for key, value in values.items():
        # click gives None or () for an option that is not there; a section would take it for a value.
        if value in (None, (), {}):
            continue
        *tables, last = key.split(".")
        table = sections
        for table_name in tables:
            table = table.setdefault(table_name, {})
        table[last] = value
    without_name = [text.removeprefix(f"{name}.") for text in overrides]
    section: Section = load_section(cls, apply_overrides(sections, without_name), "command line", allow_code=allow_code)
    changed = section.model_dump_json(exclude_unset=True)
    detail(f"{name}: {changed}")
    return section


def load_corpus(
    source: str,
    references: Sequence[str],
    hypotheses: Sequence[str],
    languages: LanguageOptions,
    overrides: Sequence[str] = (),
    allow_code: bool = False,
) -> CorpusConfig:
    """Return the corpus that a command line names; errors as `load_options`."""
    from mtcpo.data.config import CorpusConfig
    from mtcpo.data.corpora import parse_named_files

    values = {
        "source": source,
        "references": tuple(references),
        "hypotheses": parse_named_files(hypotheses),
        "src_lang": languages.src_lang,
        "tgt_lang": languages.tgt_lang,
    }
    return load_options(CorpusConfig, "data", values, overrides, allow_code)


def load_preference_set(
    source: str, languages: LanguageOptions, overrides: Sequence[str] = (), allow_code: bool = False
) -> PreferenceSetConfig:
    """Return the preference set that a command line names; errors as `load_options`."""
    from mtcpo.data.config import PreferenceSetConfig

    values = {"source": source, "src_lang": languages.src_lang, "tgt_lang": languages.tgt_lang}
    return load_options(PreferenceSetConfig, "data", values, overrides, allow_code)


@contextmanager
def writing_rows(output: Path, overwrite: bool, inputs: Iterable[str | None]) -> Iterator[None]:
    """Do as `mtcpo.core.outputs.writing` for a file of rows, and refuse one whose format cannot be written."""
    from mtcpo.core.outputs import writing
    from mtcpo.data.file_formats.registry import check_writable

    with writing(output, overwrite, inputs=inputs):
        check_writable(output)
        yield


def system_name(model: str, name: str | None = None) -> str:
    """Return the system name of a model's translations: `name`, or the last part of the model's path."""
    from mtcpo.data.names import check_system_name

    return check_system_name(name or Path(model).resolve().name)


def format_drops(drops: Drops) -> str:
    """Return the end of a command's result line, with the drops by reason; "" if nothing was dropped."""
    return "".join(f"; dropped: {number} {reason}" for reason, number in sorted(drops.items()))
