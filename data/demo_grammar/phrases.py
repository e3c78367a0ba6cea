"""Noun phrases, pronouns and names: one object, written in either language and any case."""

from dataclasses import dataclass, replace
from typing import Protocol

from demo_grammar import english, german
from demo_grammar.lexicon import Adjective, Noun, Text


class Phrase(Protocol):
    """Anything that can be a subject or an object."""

    @property
    def person(self) -> int:
        """1, 2 or 3."""
        ...

    @property
    def plural(self) -> bool:
        """Whether the verb stands in the plural."""
        ...

    @property
    def is_definite(self) -> bool:
        """Whether it is known already; what is new stands later in a German clause."""
        ...

    @property
    def is_pronoun(self) -> bool:
        """Whether it is light: pronouns stand first in the German middle field."""
        ...

    @property
    def possessive(self) -> str:
        """The determiner that refers back to this phrase: his, her, their."""
        ...

    def english(self, subject: bool = False) -> str:
        """The English words; only pronouns differ as subject and object."""
        ...

    def german(self, case: str) -> str:
        """The German words in a case: nom, acc, dat or gen."""
        ...


@dataclass(frozen=True, slots=True)
class Pronoun:
    """A personal, relative or interrogative pronoun."""

    en: str
    en_object: str
    de: tuple[str, str, str]
    """Nominative, accusative, dative."""
    person: int
    plural: bool
    possessive: str
    is_definite: bool = True
    is_pronoun: bool = True

    def english(self, subject: bool = False) -> str:
        """I or me."""
        return self.en if subject else self.en_object

    def german(self, case: str) -> str:
        """Ich, mich or mir."""
        return self.de[german.CASES.index(case)]


I = Pronoun("I", "me", ("ich", "mich", "mir"), 1, False, "my")  # noqa: E741 - the English word
YOU = Pronoun("you", "you", ("du", "dich", "dir"), 2, False, "your")
HE = Pronoun("he", "him", ("er", "ihn", "ihm"), 3, False, "his")
SHE = Pronoun("she", "her", ("sie", "sie", "ihr"), 3, False, "her")
WE = Pronoun("we", "us", ("wir", "uns", "uns"), 1, True, "our")
THEY = Pronoun("they", "them", ("sie", "sie", "ihnen"), 3, True, "their")
FORMAL_YOU = Pronoun("you", "you", ("Sie", "Sie", "Ihnen"), 3, True, "your (formal)")
PERSONAL = (I, YOU, HE, SHE, WE, THEY)
NONE_GIVEN = Pronoun("", "", ("", "", ""), 3, False, "his")
WHO = replace(NONE_GIVEN, en="who", en_object="whom", de=("wer", "wen", "wem"))


def it(noun: Noun, plural: bool) -> Pronoun:
    """The pronoun for a thing already mentioned, in the gender of its German noun: die Lampe, sie."""
    if plural:
        return THEY
    forms = {"m": HE.de, "f": SHE.de, "n": ("es", "es", "ihm")}[noun.gender]
    return Pronoun("it", "it", forms, 3, False, "its")


def relative_pronoun(noun: Noun, plural: bool, human: bool) -> Pronoun:
    """Who or that; der, die, das, and denen in the dative plural."""
    gender = "pl" if plural else noun.gender
    nominative, accusative, dative, _ = german.DEFINITE[gender]
    forms = (nominative, accusative, "denen" if plural else dative)
    word = "who" if human else "that"
    return Pronoun(word, word, forms, 3, plural, "its")


@dataclass(frozen=True, slots=True)
class Name:
    """A first name, or a surname with Mr or Mrs."""

    en: str
    de: str
    possessive: str
    title: str = ""
    person: int = 3
    plural: bool = False
    is_definite: bool = True
    is_pronoun: bool = False

    def english(self, subject: bool = False) -> str:
        """Anna, Mr Weber."""
        return f"{self.title} {self.en}".strip()

    def german(self, case: str) -> str:
        """Anna, Herr Weber; Herrn Weber in the other cases."""
        title = {"Mr": "Herr" if case == "nom" else "Herrn", "Mrs": "Frau"}.get(self.title, "")
        return f"{title} {self.de}".strip()


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """`determiner` is the English word, empty for none, or a name in the genitive (Anna's); see german.determiner.

    `owner` is a genitive that follows the German noun; `suffix` a finished relative clause with its commas.
    """

    noun: Noun
    determiner: str = "the"
    plural: bool = False
    adjective: Adjective | None = None
    degree: str = "positive"
    owner: "NounPhrase | None" = None
    suffix: Text | None = None
    person: int = 3
    is_pronoun: bool = False

    @property
    def is_definite(self) -> bool:
        """See Phrase."""
        return self.determiner not in ("a", "", "no", "many", "some") and self.determiner not in german.QUANTITIES

    @property
    def possessive(self) -> str:
        """See Phrase."""
        if self.plural:
            return "their"
        if not self.noun.tags & {"adult", "child", "family"}:
            return "its"
        return "her" if self.noun.gender == "f" or self.noun.de == "Mädchen" else "his"

    @property
    def gender(self) -> str:
        """The column of the German tables: m, f, n or pl."""
        return "pl" if self.plural else self.noun.gender

    def english(self, subject: bool = False) -> str:
        """The old man, Anna's uncle, the roof of the house."""
        forms = {"comparative": english.comparative, "superlative": english.superlative}
        adjective = forms.get(self.degree, _positive)(self.adjective) if self.adjective else ""
        core = f"{adjective} {english.noun_form(self.noun, self.plural)}".strip()
        owned_by_human = self.owner is not None and bool(self.owner.noun.tags & {"adult", "child", "family"})
        if self.owner and owned_by_human:
            return f"{_genitive(self.owner)} {core}"
        after = f" of {self.owner.english()}" if self.owner else ""
        return f"{self._english_determiner(core)} {core}{after}".strip() + (self.suffix.en if self.suffix else "")

    def german(self, case: str) -> str:
        """Der alte Mann, Annas Onkel, das Dach des Hauses."""
        words = [german.determiner(self.determiner, self.gender, case)]
        if self.adjective:
            ending = german.adjective_ending(self.determiner, self.gender, case)
            words.append(german.adjective_form(self.adjective, self.degree) + ending)
        words.append(german.noun_form(self.noun, self.plural, case))
        if self.owner:
            words.append(self.owner.german("gen"))
        return " ".join(word for word in words if word) + (self.suffix.de if self.suffix else "")

    def _english_determiner(self, following: str) -> str:
        if self.determiner == "a":
            return english.indefinite_article(following)
        if self.determiner == "this":
            return "these" if self.plural else "this"
        return self.determiner.removesuffix(" (formal)")


def _positive(adjective: Adjective) -> str:
    return adjective.en


def _genitive(owner: NounPhrase) -> str:
    text = owner.english()
    return text + ("'" if owner.plural and text.endswith("s") else "'s")


def prepositional(preposition: str, case: str, phrase: Phrase) -> str:
    """A German prepositional phrase; only the plain definite article contracts."""
    contract = isinstance(phrase, NounPhrase) and phrase.determiner == "the"
    return german.with_preposition(preposition, phrase.german(case), contract)
