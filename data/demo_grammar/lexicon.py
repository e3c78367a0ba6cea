"""The words: nouns, verbs, adjectives, adverbials and names, read from the tables in words/.

Cells that a rule can fill stay empty in the tables: regular English plurals and past tenses, German genitives, second
and third persons. A `|` in a verb marks the place where it comes apart: `auf|stehen`, `turn|on`.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

WORDS = Path(__file__).with_name("words")
HUMAN = ("adult", "child", "family")


@dataclass(frozen=True, slots=True)
class Text:
    """A ready-made expression in both languages, such as an adverbial."""

    en: str
    de: str


@dataclass(frozen=True, slots=True, eq=False)
class Noun:
    """A noun. `de_plural` is empty for mass nouns; `at` and `to` hold an English and a German preposition."""

    en: str
    en_plural: str
    de: str
    gender: str
    de_plural: str
    genitive: str
    feminine: str
    at: tuple[str, ...]
    to: tuple[str, ...]
    tags: frozenset[str]

    @property
    def is_mass(self) -> bool:
        """Whether it has no plural and needs no article, like bread."""
        return not self.de_plural


@dataclass(frozen=True, slots=True, eq=False)
class Verb:
    """A verb in one use. `frame` says what it takes: acc, dat, dat+acc, a preposition with its case, a clock time.

    `aspect`: act (any tense), point (no progressive), past (past tenses only), state (present only), ongoing
    (progressive only). `habit`: i and d allow indefinite and definite objects in habits; empty means no habits.
    """

    en: str
    past: str
    participle: str
    de: str
    du: str
    er: str
    partizip: str
    aux: str
    frame: str
    aspect: str
    habit: str
    subjects: tuple[str, ...]
    objects: tuple[Noun, ...]
    places: tuple[Noun, ...]

    @property
    def is_reflexive(self) -> bool:
        """Whether it comes with mich, dich, sich."""
        return self.de.startswith("sich ")


@dataclass(frozen=True, slots=True, eq=False)
class Adjective:
    """An adjective with its degrees; `nouns` are those that it can describe."""

    en: str
    comparative: str
    de: str
    stem: str
    de_comparative: str
    superlative: str
    nouns: tuple[Noun, ...]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """All tables together."""

    nouns: tuple[Noun, ...]
    verbs: tuple[Verb, ...]
    adjectives: tuple[Adjective, ...]
    adverbials: dict[str, tuple[Text, ...]]
    names: dict[str, tuple[Text, ...]]

    def noun(self, german: str) -> Noun:
        """The noun with this German singular."""
        return next(noun for noun in self.nouns if noun.de == german)

    def verb(self, german: str, frame: str | None = None) -> Verb:
        """The first verb with this German infinitive, and with this frame if one is given."""
        return next(verb for verb in self.verbs if verb.de == german and frame in (None, verb.frame))


def select(spec: Iterable[str], nouns: Sequence[Noun]) -> tuple[Noun, ...]:
    """The nouns that a specification names: tags, `=Noun` for one noun, `!Noun` or `!tag` for an exception."""
    items = tuple(spec)
    wanted = {tag for item in items for tag in (HUMAN if item == "human" else (item,))}
    known = {noun.de for noun in nouns} | {tag for noun in nouns for tag in noun.tags}
    unknown = {item.lstrip("=!") for item in items if item not in (*HUMAN, "human", "pronoun")} - known
    if unknown:
        raise ValueError(f"words/: no such noun: {', '.join(sorted(unknown))}")
    excluded = {item[1:] for item in items if item.startswith("!")}
    return tuple(
        noun
        for noun in nouns
        if (noun.tags & wanted or f"={noun.de}" in wanted) and not (noun.tags | {noun.de}) & excluded
    )


def load() -> Lexicon:
    """Read all tables; ValueError names the table and line of a mistake."""
    nouns = tuple(_noun(row) for row in _rows("nouns"))
    groups = {table: _grouped(table) for table in ("adverbials", "names")}
    return Lexicon(
        nouns=nouns,
        verbs=tuple(_verb(row, nouns) for row in _rows("verbs")),
        adjectives=tuple(_adjective(row, nouns) for row in _rows("adjectives")),
        adverbials=groups["adverbials"],
        names=groups["names"],
    )


def _rows(table: str) -> list[dict[str, str]]:
    with (WORDS / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"words/{table}.csv:{number}: wrong number of cells: {row}")
    return rows


def _grouped(table: str) -> dict[str, tuple[Text, ...]]:
    groups: dict[str, tuple[Text, ...]] = {}
    for row in _rows(table):
        groups[row["kind"]] = (*groups.get(row["kind"], ()), Text(row["en"], row["de"]))
    return groups


def _noun(row: dict[str, str]) -> Noun:
    regular_genitive = row["de"] if row["gender"] == "f" else row["de"] + "s"
    return Noun(
        en=row["en"],
        en_plural=row["en_plural"] or english_plural(row["en"]),
        de=row["de"],
        gender=row["gender"],
        de_plural=row["plural"],
        genitive=row["genitive"] or regular_genitive,
        feminine=row["feminine"],
        at=tuple(row["at"].split()),
        to=tuple(row["to"].split()),
        tags=frozenset(row["tags"].split()),
    )


def _verb(row: dict[str, str], nouns: Sequence[Noun]) -> Verb:
    first = re.split("[ |]", row["en"])[0]
    past = row["past"] or english_past(first)
    return Verb(
        en=row["en"],
        past=past,
        participle=row["participle"] or past,
        de=row["de"],
        du=row["du"],
        er=row["er"],
        partizip=row["partizip"],
        aux=row["aux"],
        frame=row["frame"],
        aspect=row["aspect"],
        habit=row["habit"],
        subjects=tuple(row["subjects"].split()),
        objects=select(row["objects"].split(), nouns),
        places=select(row["places"].split(), nouns),
    )


def _adjective(row: dict[str, str], nouns: Sequence[Noun]) -> Adjective:
    return Adjective(
        en=row["en"],
        comparative=row["comparative"],
        de=row["de"],
        stem=row["stem"] or row["de"].removesuffix("e"),
        de_comparative=row["de_comparative"],
        superlative=row["superlative"],
        nouns=select(row["tags"].split(), nouns),
    )


def english_plural(singular: str) -> str:
    """Dogs, boxes, babies."""
    if singular.endswith(("s", "x", "ch", "sh")):
        return singular + "es"
    if singular.endswith("y") and singular[-2] not in "aeiou":
        return singular[:-1] + "ies"
    return singular + "s"


def doubles_last_letter(base: str) -> bool:
    """plan: planned, stop: stopping. True for one short vowel and one consonant at the end of a single syllable."""
    vowels = [letter in "aeiou" for letter in base]
    return len(base) > 2 and sum(vowels) == 1 and vowels[-2] and not vowels[-1] and base[-1] not in "wxy"


def english_past(base: str) -> str:
    """Opened, danced, tidied, planned."""
    if base.endswith("e"):
        return base + "d"
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ied"
    return base + (base[-1] if doubles_last_letter(base) else "") + "ed"
