"""Reading preference sets of every supported layout as streams of triplets; and writing TRL's layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.config import PreferenceSetConfig
from mtcpo.data.corpora import Drops, row_id, rows_to_read
from mtcpo.data.languages import UNDETERMINED, check_language
from mtcpo.data.records import Triplet, triplet_from_json
from mtcpo.data.row_layouts import preference_triplet, trl_row
from mtcpo.data.rows import require_first
from mtcpo.data.templates import column_text, fill_template


def read_triplets(
    config: PreferenceSetConfig | str, drops: Drops | None = None, items: Iterable[Any] | None = None
) -> Iterator[Triplet]:
    """Yield the triplets of a file or data set in mtcpo's layout, TRL's or X-ALMA's.

    config: where they are, and which columns hold source, chosen and rejected if not in a known layout; a string means
    `source` alone. Triplets without languages get the config's. Triplets with an empty text or with equal chosen and
    rejected are dropped and counted in `drops`. items: rows or triplets in memory, read instead of `config.source`.

    Raises:
        UserError: an unknown layout (for scored candidates, the message names `mtcpo build-prefs`), or languages other
            than the config's.
    """
    drops = Drops() if drops is None else drops
    if isinstance(config, str):
        config = load_section(PreferenceSetConfig, {"source": config}, "triplets")
    # Settings that name columns take precedence: rows in a known layout may have columns of those names too.
    to_triplet = _column_triplet if config.names_columns else _layout_triplet
    is_empty = True
    for where, row in rows_to_read(config, items):
        is_empty = False
        triplet = to_triplet(row, config, where)
        if not (triplet.chosen.strip() and triplet.rejected.strip() and (triplet.source.strip() or triplet.prompt)):
            drops["empty_text"] += 1
        elif triplet.chosen == triplet.rejected:
            drops["identical"] += 1
        else:
            yield _with_languages(triplet, config, where)
    if is_empty:
        raise UserError(f"{config.source}: it is empty; at least one triplet is needed")


def open_triplets(config: PreferenceSetConfig, drops: Drops) -> Iterator[Triplet]:
    """Like `read_triplets`, but read the first triplet at once, so that a mistake shows early.

    Raises:
        UserError: there is no triplet.
    """
    triplets = read_triplets(config, drops)
    return require_first(triplets, f"{config.source}: it has no triplet with two different translations")


def _layout_triplet(row: Mapping[str, Any], config: PreferenceSetConfig, where: str) -> Triplet:
    """Convert a row in mtcpo's layout, TRL's or X-ALMA's to a triplet."""
    # The most likely mistake: the output of `mtcpo translate`, or ALMA-R rows, from which pairs must first be built.
    if "translation" in row or "candidates" in row:
        raise UserError(
            f"{where}: these are candidates, not triplets; choose pairs first: mtcpo build-prefs {config.source}"
        )
    identifier = row_id(row, where)
    # TRL's rows have chosen and rejected too, but no languages.
    if "src_lang" in row and "rejected" in row:
        return triplet_from_json({**row, "id": identifier}, where)
    return preference_triplet(row, identifier, where)


def _column_triplet(row: Mapping[str, Any], config: PreferenceSetConfig, where: str) -> Triplet:
    """Build a triplet from the columns, or templates over columns, that the settings name."""

    def text(column: str, template: str | None, key: str) -> str:
        return column_text(row, column, key, where) if template is None else fill_template(template, row, where)

    # Missing languages are filled in from the config by _with_languages.
    return Triplet(
        id=row_id(row, where),
        src_lang=check_language(str(row.get("src_lang") or UNDETERMINED)),
        tgt_lang=check_language(str(row.get("tgt_lang") or UNDETERMINED)),
        source=text(config.source_column, config.source_template, "source_column"),
        chosen=text(config.chosen_column, config.chosen_template, "chosen_column"),
        rejected=text(config.rejected_column, config.rejected_template, "rejected_column"),
    )


def _with_languages(triplet: Triplet, config: PreferenceSetConfig, where: str) -> Triplet:
    """Fill in a triplet's missing languages from the config."""
    # de and deu_Latn are one language, so the codes are compared in their standard form.
    languages = []
    for configured, language in ((config.src_lang, triplet.src_lang), (config.tgt_lang, triplet.tgt_lang)):
        if configured is not None and language != UNDETERMINED and check_language(language) != configured:
            raise UserError(f"{where}: the triplet's language is {language!r}, not {configured!r} as given")
        languages.append((configured or UNDETERMINED) if language == UNDETERMINED else language)
    return replace(triplet, src_lang=languages[0], tgt_lang=languages[1])


def triplets_to_trl(triplets: Iterable[Triplet], template: str = "{source}") -> Iterator[dict[str, str]]:
    """Yield TRL's standard preference rows. template: prompt template, with {source}, {src_name} and {tgt_name}."""
    for triplet in triplets:
        yield trl_row(triplet, template)
