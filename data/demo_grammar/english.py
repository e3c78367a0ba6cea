"""English inflection: articles, verbs, auxiliaries and comparison."""

from dataclasses import dataclass

from demo_grammar.lexicon import Adjective, Noun, Verb, doubles_last_letter

BE_PRESENT = {(1, False): "am", (3, False): "is"}
VOWEL_EXCEPTIONS = ("university", "useful", "uniform")


@dataclass(frozen=True, slots=True)
class Modal:
    """A modal in both languages. `en` may be an auxiliary (can), a verb (want to) or be + adjective (be allowed to)."""

    en: str
    past: str
    de: str


CAN, HAVE_TO, MUST, WANT_TO, WOULD_LIKE, SHOULD, MAY = MODALS = (
    Modal("can", "was able to", "können"),
    Modal("have to", "had to", "müssen"),
    Modal("must", "", "müssen"),
    Modal("want to", "wanted to", "wollen"),
    Modal("would like to", "", "mögen"),
    Modal("should", "", "sollen"),
    Modal("be allowed to", "was allowed to", "dürfen"),
)


@dataclass(frozen=True, slots=True)
class VerbGroup:
    """The words of a predicate. Questions invert `auxiliary`; adverbs such as not and often stand before `main`."""

    auxiliary: str
    main: str
    particle: str


def indefinite_article(next_word: str) -> str:
    """A or an, by the sound of the next word."""
    sounds_like_vowel = next_word[0].lower() in "aeiou" and not next_word.startswith(VOWEL_EXCEPTIONS)
    return "an" if sounds_like_vowel or next_word.startswith("hour") else "a"


def noun_form(noun: Noun, plural: bool) -> str:
    """Dog or dogs."""
    return noun.en_plural if plural else noun.en


def comparative(adjective: Adjective) -> str:
    """Older, better, more beautiful."""
    return adjective.comparative or f"more {adjective.en}"


def superlative(adjective: Adjective) -> str:
    """Oldest, best, most beautiful."""
    irregular = {"better": "best", "worse": "worst"}
    word = comparative(adjective)
    if word.startswith("more "):
        return "most" + word.removeprefix("more")
    return irregular.get(word) or word.removesuffix("er") + "est"


def third_person(base: str) -> str:
    """Reads, washes, tidies, has."""
    irregular = {"have": "has", "go": "goes", "do": "does"}
    if base in irregular:
        return irregular[base]
    if base.endswith(("s", "x", "ch", "sh")):
        return base + "es"
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ies"
    return base + "s"


def gerund(base: str) -> str:
    """Reading, swimming, lying."""
    if base.endswith("ie"):
        return base[:-2] + "ying"
    if base.endswith("e") and not base.endswith("ee") and base != "be":
        return base[:-1] + "ing"
    doubled = doubles_last_letter(base) or base == "forget"
    return base + (base[-1] if doubled else "") + "ing"


def be(person: int, plural: bool, past: bool = False) -> str:
    """Am, is, are; was, were."""
    if past:
        return "was" if not plural and person != 2 else "were"
    return "are" if plural else BE_PRESENT.get((person, plural), "are")


def have(person: int, plural: bool) -> str:
    """Has or have."""
    return "has" if person == 3 and not plural else "have"


def verb_group(
    verb: Verb, tense: str, modal: Modal | None, person: int, plural: bool, needs_auxiliary: bool
) -> VerbGroup:
    """`needs_auxiliary` asks for do-support: in questions and with not."""
    words, _, particle = verb.en.partition("|")
    first, _, rest = words.partition(" ")
    rest = f" {rest}" if rest else ""
    singular_third = person == 3 and not plural
    if modal:
        auxiliary, lead = _modal(modal, tense == "past", person, plural, needs_auxiliary)
        return VerbGroup(auxiliary, f"{lead} {first}{rest}".strip(), particle)
    if tense == "future":
        return VerbGroup("will", first + rest, particle)
    if tense in ("perfect", "pluperfect"):
        auxiliary = "had" if tense == "pluperfect" else have(person, plural)
        return VerbGroup(auxiliary, verb.participle + rest, particle)
    if tense == "progressive":
        return VerbGroup(be(person, plural), gerund(first) + rest, particle)
    if first == "be":
        return VerbGroup(be(person, plural, past=tense == "past"), rest.strip(), particle)
    if needs_auxiliary:
        auxiliary = "did" if tense == "past" else ("does" if singular_third else "do")
        return VerbGroup(auxiliary, first + rest, particle)
    finite = verb.past if tense == "past" else (third_person(first) if singular_third else first)
    return VerbGroup("", finite + rest, particle)


def _modal(modal: Modal, past: bool, person: int, plural: bool, needs_auxiliary: bool) -> tuple[str, str]:
    """The auxiliary and what stands before the main verb: ("does", "want to"), ("can", ""), ("is", "allowed to")."""
    words = modal.past if past else modal.en
    first, _, rest = words.partition(" ")
    if first in ("be", "was"):
        return be(person, plural, past), rest
    if modal.en.startswith(("have", "want")):
        if needs_auxiliary:
            auxiliary = "did" if past else ("does" if person == 3 and not plural else "do")
            return auxiliary, modal.en
        finite = third_person(first) if person == 3 and not plural and not past else first
        return "", f"{finite} {rest}"
    return first, rest
