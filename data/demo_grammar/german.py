"""German inflection: articles, adjective endings, nouns, contractions and verb groups."""

import re
from dataclasses import dataclass

from demo_grammar.lexicon import Adjective, Noun, Verb

CASES = ("nom", "acc", "dat", "gen")

DEFINITE = {
    "m": ("der", "den", "dem", "des"),
    "f": ("die", "die", "der", "der"),
    "n": ("das", "das", "dem", "des"),
    "pl": ("die", "die", "den", "der"),
}
# Endings of dies-, jed- and einig-, which adjectives without any article take too (except in the genitive singular).
STRONG = {
    "m": ("er", "en", "em", "es"),
    "f": ("e", "e", "er", "er"),
    "n": ("es", "es", "em", "es"),
    "pl": ("e", "e", "en", "er"),
}
# Endings of ein, kein, mein: as above, but bare where the gender does not show.
EIN = {"m": ("", "en", "em", "es"), "f": STRONG["f"], "n": ("", "", "em", "es"), "pl": STRONG["pl"]}
WEAK = {
    "m": ("e", "en", "en", "en"),
    "f": ("e", "e", "en", "en"),
    "n": ("e", "e", "en", "en"),
    "pl": ("en", "en", "en", "en"),
}
MIXED = {"m": ("er", "en", "en", "en"), "f": WEAK["f"], "n": ("es", "es", "en", "en"), "pl": WEAK["pl"]}

EIN_WORDS = {
    "a": "ein",
    "no": "kein",
    "my": "mein",
    "your": "dein",
    "his": "sein",
    "her": "ihr",
    "our": "unser",
    "their": "ihr",
    "your (formal)": "Ihr",
}
DER_WORDS = {"this": "dies", "every": "jed"}
QUANTITIES = {
    "two": "zwei",
    "three": "drei",
    "four": "vier",
    "five": "fünf",
    "six": "sechs",
    "ten": "zehn",
    "twelve": "zwölf",
    "many": "viele",
    "some": "einige",
}
INFLECTED_QUANTITIES = ("viele", "einige")

CONTRACTIONS = {
    ("in", "dem"): "im",
    ("in", "das"): "ins",
    ("an", "dem"): "am",
    ("an", "das"): "ans",
    ("zu", "dem"): "zum",
    ("zu", "der"): "zur",
    ("bei", "dem"): "beim",
    ("von", "dem"): "vom",
}

REFLEXIVE = {(1, False): "mich", (2, False): "dich", (1, True): "uns"}

# Present of the verbs that follow no rule: ich, du, er, wir, sie.
IRREGULAR_PRESENT = {
    "sein": ("bin", "bist", "ist", "sind", "sind"),
    "haben": ("habe", "hast", "hat", "haben", "haben"),
    "werden": ("werde", "wirst", "wird", "werden", "werden"),
    "wissen": ("weiß", "weißt", "weiß", "wissen", "wissen"),
    "können": ("kann", "kannst", "kann", "können", "können"),
    "müssen": ("muss", "musst", "muss", "müssen", "müssen"),
    "wollen": ("will", "willst", "will", "wollen", "wollen"),
    "dürfen": ("darf", "darfst", "darf", "dürfen", "dürfen"),
    "mögen": ("möchte", "möchtest", "möchte", "möchten", "möchten"),
    "sollen": ("sollte", "solltest", "sollte", "sollten", "sollten"),
}
PRETERITE = {
    "sein": ("war", "warst", "war", "waren", "waren"),
    "haben": ("hatte", "hattest", "hatte", "hatten", "hatten"),
    "werden": ("wurde", "wurdest", "wurde", "wurden", "wurden"),
    "können": ("konnte", "konntest", "konnte", "konnten", "konnten"),
    "müssen": ("musste", "musstest", "musste", "mussten", "mussten"),
    "wollen": ("wollte", "wolltest", "wollte", "wollten", "wollten"),
    "dürfen": ("durfte", "durftest", "durfte", "durften", "durften"),
}


@dataclass(frozen=True, slots=True)
class VerbGroup:
    """The words of a predicate: `finite` stands second, `tail` at the end, `final` ends a subordinate clause."""

    finite: str
    tail: str
    final: str


def determiner(word: str, gender: str, case: str) -> str:
    """The German form of an English determiner: ("a", "m", "acc") is einen."""
    column = CASES.index(case)
    if word == "the":
        return DEFINITE[gender][column]
    if word in EIN_WORDS:
        return EIN_WORDS[word] + EIN[gender][column]
    if word in DER_WORDS:
        return DER_WORDS[word] + STRONG[gender][column]
    if word in QUANTITIES:
        number = QUANTITIES[word]
        return number[:-1] + STRONG["pl"][column] if number in INFLECTED_QUANTITIES else number
    if word.endswith("'s"):
        return word[:-2] + "s"
    return word


def adjective_ending(word: str, gender: str, case: str) -> str:
    """The ending of an adjective after the determiner `word`; an empty word means that there is none."""
    column = CASES.index(case)
    if word == "the" or word in DER_WORDS:
        return WEAK[gender][column]
    if word in EIN_WORDS:
        return MIXED[gender][column]
    if case == "gen" and gender in ("m", "n"):
        return "en"
    return STRONG[gender][column]


def adjective_form(adjective: Adjective, degree: str) -> str:
    """The stem to which endings are added: teuer, teurer, teuerst give teur-, teurer-, teuerst-."""
    return {
        "positive": adjective.stem,
        "comparative": adjective.de_comparative,
        "superlative": adjective.superlative,
    }[degree]


def noun_form(noun: Noun, plural: bool, case: str) -> str:
    """Hauses, Kindern, Studenten: number, case and the n-declension."""
    if plural:
        takes_n = case == "dat" and not noun.de_plural.endswith(("n", "s"))
        return noun.de_plural + ("n" if takes_n else "")
    if case == "gen" or ("weak" in noun.tags and case != "nom"):
        return noun.genitive
    return noun.de


def with_preposition(preposition: str, phrase: str, contract: bool = True) -> str:
    """In + dem Haus = im Haus."""
    first, _, rest = phrase.partition(" ")
    short = CONTRACTIONS.get((preposition, first)) if contract else None
    return f"{short} {rest}" if short else f"{preposition} {phrase}"


def split_verb(verb: str) -> tuple[str, str]:
    """auf|stehen is ("auf", "stehen"); a reflexive sich is dropped, because it is a word of the middle field."""
    prefix, _, base = verb.removeprefix("sich ").rpartition("|")
    return prefix, base


def infinitive(verb: str) -> str:
    """The dictionary form in one word: aufstehen."""
    return "".join(split_verb(verb))


def zu_infinitive(verb: str) -> str:
    """Zu lesen, aufzustehen, spazieren zu gehen."""
    prefix, base = split_verb(verb)
    return f"{prefix}zu{base}" if prefix and not prefix.endswith(" ") else f"{prefix}zu {base}"


def present(verb: Verb, person: int, plural: bool) -> str:
    """The present of the base: for auf|stehen that of stehen."""
    return _present(split_verb(verb.de)[1], verb.du, verb.er, person, plural)


def auxiliary(name: str, person: int, plural: bool, past: bool = False) -> str:
    """A form of sein, haben, werden or a modal."""
    return (PRETERITE if past else IRREGULAR_PRESENT)[name][_slot(person, plural)]


def verb_group(verb: Verb, tense: str, modal: str, person: int, plural: bool) -> VerbGroup:
    """All the words of a predicate, in a tense or with a modal."""
    prefix, base = split_verb(verb.de)
    whole = infinitive(verb.de)
    if modal:
        return _periphrastic(auxiliary(modal, person, plural, past=tense == "past"), whole)
    if tense == "future":
        return _periphrastic(auxiliary("werden", person, plural), whole)
    if tense == "pluperfect":
        return _periphrastic(auxiliary(verb.aux, person, plural, past=True), verb.partizip)
    if tense in ("past", "perfect"):
        if base == "sein":
            finite = auxiliary("sein", person, plural, past=True)
            return VerbGroup(finite, "", finite)
        return _periphrastic(auxiliary(verb.aux, person, plural), verb.partizip)
    finite = present(verb, person, plural)
    return VerbGroup(finite, prefix.strip(), prefix + finite)


def passive_group(verb: Verb, past: bool, plural: bool) -> VerbGroup:
    """Wird repariert, wurde repariert."""
    return _periphrastic(auxiliary("werden", 3, plural, past=past), verb.partizip)


def _periphrastic(finite: str, tail: str) -> VerbGroup:
    return VerbGroup(finite, tail, f"{tail} {finite}")


def _slot(person: int, plural: bool) -> int:
    return (3 if person == 1 else 4) if plural else person - 1


def _present(base: str, du: str, er: str, person: int, plural: bool) -> str:
    if base in IRREGULAR_PRESENT:
        return IRREGULAR_PRESENT[base][_slot(person, plural)]
    if plural:
        return base
    stem = re.sub("e?n$", "", base)
    if person == 1:
        return stem[:-2] + "le" if base.endswith("eln") else stem + "e"
    # öffn-, zeichn-, antwort-, find-: an e keeps the ending audible.
    linking = "e" if re.search("[td]$|[^aeiouäöülrhnm][nm]$", stem) else ""
    if person == 2:
        return du or stem + ("t" if stem.endswith(("s", "ß", "z")) else f"{linking}st")
    return er or stem + linking + "t"
