"""Reading preference sets, in every layout that people have, as streams of triplets; and writing TRL's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.columns import column_text, fill_template
from mtcpo.data.corpora import CORPUS_FIELDS, PAIR_FIELDS, CorpusConfig, Drops, row_id_of, wanted_rows
from mtcpo.data.formats import preference_triplet, trl_row
from mtcpo.data.languages import UNDETERMINED, check_language
from mtcpo.data.records import Triplet, triplet_from_json
from mtcpo.data.rows import require_first


def read_triplets(
    config: CorpusConfig | str, drops: Drops | None = None, items: Iterable[Any] | None = None
) -> Iterator[Triplet]:
    """Yield the triplets of a file or data set: our own, TRL's preference sets, or X-ALMA's.

    config: where they are, and the columns of source, chosen and rejected where they have other names; the name of a
    source is enough. Those that do not say their languages get the config's. Triplets without text, or whose chosen
    and rejected are equal, are dropped and counted in `drops`. items: rows or triplets in memory in place of
    `config.source`.

    Raises:
        UserError: another layout, for scored candidates the message names `mtcpo build-prefs`; or other languages than
            the config's.
    """
    drops = Drops() if drops is None else drops
    config = load_section(CorpusConfig, {"source": config}, "triplets") if isinstance(config, str) else config
    if strange := config.given(CORPUS_FIELDS):
        named = ", ".join(PAIR_FIELDS)
        raise UserError(f"{config.source}: {strange[0]} has no meaning for a preference set, which has {named}")
    by_columns, found = bool(config.given(PAIR_FIELDS)), False
    for where, row in wanted_rows(config, items):
        found = True
        if not by_columns and ("translation" in row or "candidates" in row):
            raise UserError(
                f"{where}: these are candidates, not triplets; choose pairs first: mtcpo build-prefs {config.source}"
            )
        row_id = row_id_of(row, where)
        triplet = _column_triplet(row, config, row_id, where) if by_columns else _triplet(row, row_id, where)
        if not (triplet.chosen.strip() and triplet.rejected.strip() and (triplet.source.strip() or triplet.prompt)):
            drops["empty_text"] += 1
        elif triplet.chosen == triplet.rejected:
            drops["identical"] += 1
        else:
            yield _with_languages(triplet, config, where)
    if not found:
        raise UserError(f"{config.source}: nothing in it; at least one triplet is needed")


def open_triplets(config: CorpusConfig, drops: Drops) -> Iterator[Triplet]:
    """Read triplets as `read_triplets` does, the first one now.

    Raises:
        UserError: there is none.
    """
    return require_first(
        read_triplets(config, drops), f"{config.source}: no triplet in it with two different translations"
    )


def _triplet(row: Mapping[str, Any], row_id: str, where: str) -> Triplet:
    own = "src_lang" in row and "rejected" in row
    return triplet_from_json({**row, "id": row_id}, where) if own else preference_triplet(row, row_id, where)


def _column_triplet(row: Mapping[str, Any], config: CorpusConfig, row_id: str, where: str) -> Triplet:
    """Make a triplet of the columns, or templates over columns, that the settings name."""

    def text(name: str) -> str:
        template = getattr(config, f"{name}_template")
        key = f"{name}_column"
        return (
            column_text(row, getattr(config, key), key, where)
            if template is None
            else fill_template(template, row, where)
        )

    source_lang, target_lang = (check_language(str(row.get(key) or UNDETERMINED)) for key in ("src_lang", "tgt_lang"))
    return Triplet(row_id, source_lang, target_lang, text("source"), text("chosen"), text("rejected"))


def _with_languages(triplet: Triplet, config: CorpusConfig, where: str) -> Triplet:
    """Give a triplet the languages that it does not say itself."""
    languages = []
    for wanted, own in ((config.src_lang, triplet.src_lang), (config.tgt_lang, triplet.tgt_lang)):
        if wanted is not None and own != UNDETERMINED and check_language(own) != wanted:
            raise UserError(f"{where}: the triplet's language is {own!r}, not {wanted!r} as given")
        languages.append((wanted or UNDETERMINED) if own == UNDETERMINED else own)
    return replace(triplet, src_lang=languages[0], tgt_lang=languages[1])


def triplets_to_trl(triplets: Iterable[Triplet], template: str = "{source}") -> Iterator[dict[str, str]]:
    """Yield TRL's standard preference rows. template: the prompt with {source}, {src_name} and {tgt_name}."""
    for triplet in triplets:
        yield trl_row(triplet, template)
