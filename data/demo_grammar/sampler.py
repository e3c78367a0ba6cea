"""Choosing words that fit together: who does what, to what, where, and what it is like.

Two kinds of pairs are recorded for every sentence, as (head, noun): a verb with one of its objects, complements or
places, and an adjective with the noun that it describes. A fixed part of all possible pairs is held out: a sampler
draws either only pairs that are held out or only pairs that are not.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from demo_grammar import phrases
from demo_grammar.clauses import Clause
from demo_grammar.english import Modal
from demo_grammar.lexicon import HUMAN, Adjective, Lexicon, Noun, Text, Verb, select
from demo_grammar.phrases import Name, NounPhrase, Phrase, prepositional
from demo_grammar.plausibility import (
    ALONE,
    ANIMATE,
    ATTRIBUTES_OF_PEOPLE,
    CLOTHES,
    COMPARABLE,
    EXCESSIVE,
    HEADS_WITH_ANY_NOUN,
    IMPLAUSIBLE,
    NOT_FOR_CHILDREN,
    OPPOSITES,
    OWNED,
    POSSESSIVES,
    SEVERAL,
    UNGRADED,
    UNPLANNED,
)

T = TypeVar("T")
WordPair = tuple[str, str]
UNDER_AND_NEAR = (
    Text("under", "unter"),
    Text("behind", "hinter"),
    Text("next to", "neben"),
    Text("in front of", "vor"),
)
TENSES = {
    "habit": ("act", "point"),
    "present": ("state",),
    "progressive": ("act", "ongoing"),
    "past": ("act", "point", "past"),
    "perfect": ("act", "point", "past"),
    "pluperfect": ("act", "point", "past"),
    "future": ("act", "point"),
    "modal": ("act", "point"),
}


class NoChoiceError(Exception):
    """No word fits here: the sentence is discarded, and another one is tried."""


def held_out_pairs(lexicon: Lexicon, rng: random.Random, share: float) -> frozenset[WordPair]:
    """For each verb and each adjective, `share` of its nouns (at least one, if it has three or more)."""
    partners: dict[str, set[str]] = {}
    for verb in lexicon.verbs:
        for group, nouns in (("object", verb.objects), ("place", verb.places)):
            partners.setdefault(f"{group} {verb.de}", set()).update(noun.de for noun in nouns)
    for adjective in lexicon.adjectives:
        partners.setdefault(f"adjective {adjective.de}", set()).update(noun.de for noun in adjective.nouns)
    for head in HEADS_WITH_ANY_NOUN:
        partners[f"any {head}"] = {noun.de for noun in lexicon.nouns}
    held: set[WordPair] = set()
    for head in sorted(partners):
        nouns = sorted(partners[head])
        count = max(1, round(share * len(nouns))) if len(nouns) > 2 else 0
        for _ in range(count):
            held.add((head.partition(" ")[2], nouns.pop(int(rng.random() * len(nouns)))))
    return frozenset(held)


class Sampler:
    """Draws words for one sentence at a time; `start` forgets the sentence before."""

    def __init__(self, lexicon: Lexicon, held_out: frozenset[WordPair], rng: random.Random) -> None:
        self.lexicon = lexicon
        self.held_out = held_out
        self.rng = rng
        self.selections: dict[tuple[str, ...], tuple[Noun, ...]] = {}
        self.wants_held_out = False
        self.start()

    def start(self, wants_held_out: bool = False) -> None:
        """Forget the last sentence and choose the side of the held-out set."""
        self.wants_held_out = wants_held_out
        self.pairs: set[WordPair] = set()
        self.words: set[str] = set()
        self.used: set[str] = set()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, all equally likely; NoChoiceError if there are none."""
        # random() alone is promised to give the same numbers in every version of Python.
        if not choices:
            raise NoChoiceError
        return choices[int(self.rng.random() * len(choices))]

    # Words

    def text(self, kind: str) -> Text:
        """An adverbial: past, habit, now, future, clock, duration, often, degree."""
        text = self.pick(self.lexicon.adverbials[kind])
        self.words.add(text.de)
        return text

    def city(self) -> Text:
        """The name of a city."""
        city = self.pick(self.lexicon.names["city"])
        self.words.add(city.de)
        return city

    def name(self) -> Name:
        """A first name that the sentence does not have yet."""
        kind = self.pick(("m", "f"))
        name = self.pick([name for name in self.lexicon.names[kind] if name.de not in self.used])
        self._use(name.de)
        return Name(name.en, name.de, "his" if kind == "m" else "her")

    def titled_name(self) -> Name:
        """Mr Weber, Mrs Keller."""
        name = self.pick(self.lexicon.names["surname"])
        self._use(name.de)
        title = self.pick(("Mr", "Mrs"))
        return Name(name.en, name.de, "his" if title == "Mr" else "her", title)

    def free_noun(self, nouns: Iterable[Noun]) -> Noun:
        """A noun that the sentence does not have yet, without a recorded pair."""
        noun = self.pick([noun for noun in nouns if noun.de not in self.used])
        self._use(noun.de)
        return noun

    def noun_for(self, head: str, nouns: Iterable[Noun]) -> Noun:
        """A noun whose pair with `head` is on the wanted side of the held-out set."""
        noun = self.free_noun([noun for noun in nouns if self._is_wanted(head, noun)])
        self.pairs.add((head, noun.de))
        return noun

    def adjective_for(self, noun: Noun, graded: bool = False) -> Adjective:
        """An adjective whose pair with the noun is on the wanted side."""
        adjective = self.pick(
            [
                adjective
                for adjective in self.lexicon.adjectives
                if noun in adjective.nouns
                and adjective.de not in self.used
                and self._is_wanted(adjective.de, noun)
                and (adjective.de_comparative or not graded)
            ]
        )
        self._use(adjective.de)
        self.pairs.add((adjective.de, noun.de))
        return adjective

    def _use(self, word: str) -> None:
        self.used.add(word)
        self.words.add(word)

    def _is_wanted(self, head: str, noun: Noun) -> bool:
        return ((head, noun.de) in self.held_out) == self.wants_held_out

    def accept(self, verb: Verb, noun: Noun) -> bool:
        """Whether this pair is on the wanted side; the caller records it."""
        return self._is_wanted(verb.de, noun)

    def is_like(self, noun: Noun, other: Noun) -> bool:
        """Whether the two can be compared: they are of the same broad kind."""
        return noun != other and any(noun.tags & kind and other.tags & kind for kind in COMPARABLE)

    def tagged(self, *spec: str) -> tuple[Noun, ...]:
        """The nouns that `lexicon.select` finds, remembered."""
        if spec not in self.selections:
            self.selections[spec] = select(spec, self.lexicon.nouns)
        return self.selections[spec]

    # Phrases

    def with_adjective(self, phrase: NounPhrase, probability: float) -> NounPhrase:
        """The phrase with a fitting adjective, if chance and the held-out set allow one."""
        if self.chance(probability):
            try:
                return replace(phrase, adjective=self.adjective_for(phrase.noun))
            except NoChoiceError:
                return phrase
        return phrase

    def owner(self, subject: Phrase | None) -> str:
        """Whose: mostly the subject's own, or someone else's."""
        if subject and subject.possessive != "its" and self.chance(0.6):
            return subject.possessive
        own = subject.possessive.removesuffix(" (formal)") if subject else ""
        others = [word for word in POSSESSIVES if word != own]
        return self.pick(others)

    def kin_phrase(self, noun: Noun, subject: Phrase | None = None) -> NounPhrase:
        """My brother, her friends, Anna's uncle."""
        plural = "one" not in noun.tags and self.chance(0.2)
        determiner = f"{self.name().en}'s" if subject is None and self.chance(0.25) else self.owner(subject)
        return NounPhrase(noun, determiner, plural)

    def person(self, spec: Sequence[str] = HUMAN, subject: Phrase | None = None, head: str = "") -> NounPhrase:
        """Somebody, from the nouns of a specification."""
        nouns = self.tagged(*spec)
        return self.person_phrase(self.noun_for(head, nouns) if head else self.free_noun(nouns), subject)

    def person_phrase(self, noun: Noun, subject: Phrase | None = None) -> NounPhrase:
        """A person with a determiner: family belongs to somebody."""
        if "family" in noun.tags or ("relation" in noun.tags and self.chance(0.8)):
            return self.with_adjective(self.kin_phrase(noun, subject), 0.15)
        determiner = self.pick(("the", "the", "the", "a", "this"))
        plural = self.chance(0.25)
        if plural and determiner == "a":
            determiner = self.pick(SEVERAL)
        return self.with_adjective(NounPhrase(noun, determiner, plural), 0.3)

    def subject(self, verb: Verb) -> Phrase:
        """Somebody or something that can do this."""
        spec = tuple(item for item in verb.subjects if item != "pronoun")
        if {"human", "pronoun"} & set(verb.subjects) and self.chance(0.62):
            return self.someone()
        noun = self.free_noun(self.tagged(*spec))
        if noun.tags & {"adult", "child", "family", "infant"}:
            return self.person_phrase(noun)
        plural = self.chance(0.25) and not noun.is_mass
        determiner = self.pick(("the", "the", "my", "our", "this") if "pet" in noun.tags else ("the", "the", "this"))
        return self.with_adjective(NounPhrase(noun, determiner, plural), 0.3)

    def someone(self) -> Phrase:
        """A pronoun, a first name or a name with a title."""
        if self.chance(0.65):
            return self.pick(phrases.PERSONAL)
        return self.titled_name() if self.chance(0.2) else self.name()

    def object_pronoun(self, subject: Phrase) -> Phrase:
        """him, her, us - but no one who is also the subject."""
        barred = 2 if subject is phrases.FORMAL_YOU else subject.person
        return self.pick([it for it in phrases.PERSONAL if it.person not in {1, 2} & {barred} and it != subject])

    def thing(self, noun: Noun, subject: Phrase | None, definite: bool = False, indefinite: bool = False) -> NounPhrase:
        """A noun phrase for an object; by default with any determiner."""
        if noun.is_mass:
            determiner = "the" if definite else self.pick(("", "", "the")) if not indefinite else ""
            return self.with_adjective(NounPhrase(noun, determiner), 0.3)
        shows_number = noun.en != noun.en_plural
        plural = "several" in noun.tags or (self.chance(0.2) and shows_number and not noun.tags & ALONE)
        if definite:
            determiner = self.pick(("the", "the", self.owner(subject)))
        elif indefinite:
            determiner = self.pick(("", "", "many", "some") if plural else ("a",))
        elif plural:
            determiner = self.pick(("", "the", "the", "this", self.owner(subject), self.pick(SEVERAL)))
        else:
            determiner = self.pick(("a", "a", "a", "the", "the", "this", self.owner(subject), self.owner(subject)))
        if determiner in (*POSSESSIVES, "your (formal)") and not self.is_owned(noun):
            determiner = "the"
        return self.with_adjective(NounPhrase(noun, determiner, plural), 0.35)

    def is_owned(self, noun: Noun) -> bool:
        """Whether my or your can stand before this noun."""
        return bool(noun.tags & OWNED) and not noun.tags & {"ride", "air", "town", "land"}

    def predicate_for(self, noun: Noun, graded: bool = False, first: Adjective | None = None) -> Adjective:
        """An adjective to be said of the noun, and not the opposite of the one that it has already."""
        adjective = self.adjective_for(noun, graded)
        clash = first and any(first.de in group and adjective.de in group for group in OPPOSITES)
        is_person = bool(noun.tags & {"adult", "child"})
        if adjective.en == "little" or clash or (is_person and adjective.de in ATTRIBUTES_OF_PEOPLE):
            raise NoChoiceError
        return adjective

    def degree_for(self, adjective: Adjective) -> Text:
        """Very, quite, too: nothing for colours and the like."""
        if adjective.de in UNGRADED:
            return Text("", "")
        degree = self.text("degree")
        return degree if degree.de != "zu" or adjective.de in EXCESSIVE else Text("", "")

    # Places

    def place(self, verb: Verb) -> Text:
        """Where the verb can happen."""
        return self.location(self.noun_for(verb.de, verb.places))

    def location(self, noun: Noun) -> Text:
        """Where: in the garden, im Garten."""
        return self._locate(noun, noun.at, "dat")

    def direction(self, noun: Noun) -> Text:
        """Where to: into the garden, in den Garten; zu takes the dative."""
        return self._locate(noun, noun.to, "dat" if noun.to[-1] == "zu" else "acc")

    def _locate(self, noun: Noun, prepositions: tuple[str, ...], case: str) -> Text:
        phrase = NounPhrase(noun)
        if noun.tags & {"living", "outside", "eating"} and "room" not in noun.tags:
            phrase = self.with_adjective(phrase, 0.3)
        if phrase.adjective and self.chance(0.5) and "home" not in noun.tags:
            phrase = replace(phrase, determiner="a")
        return both_ways(" ".join(prepositions[:-1]), prepositions[-1], case, phrase)

    def position(self, way: str, moving: bool) -> Text:
        """On the table, under the bed: two-way prepositions take the accusative for a movement, else the dative."""
        case = "acc" if moving else "dat"
        on, inside = Text("on", "auf"), Text("into" if moving else "in", "in")
        options = [(on, "standing" if way == "stand" else "surface")] * 4 + [
            (inside, "=Schrank" if way == "stand" else "container")
        ] * 3
        options += [(preposition, "near") for preposition in UNDER_AND_NEAR]
        if way == "hang":
            options = [
                (Text("on", "an"), "=Wand"),
                (Text("next to", "neben"), "=Fenster"),
                (Text("behind", "hinter"), "=Tür"),
            ]
        preposition, spec = self.pick(options)
        phrase = NounPhrase(self.free_noun(self.tagged(spec)), "the")
        return both_ways(preposition.en, preposition.de, case, self.with_adjective(phrase, 0.2))

    # Clauses

    def clause(
        self,
        tense: str,
        subject: Phrase | None = None,
        verbs: Sequence[Verb] | None = None,
        place: float = 0.25,
        modal: Modal | None = None,
    ) -> Clause:
        """Somebody does something; `tense` is one of TENSES. `place` is the chance of a place."""
        candidates = self.verbs(tense) if verbs is None else verbs
        verb = self.pick([verb for verb in candidates if not subject or self.fits(verb, subject)])
        self.words.add(verb.de)
        subject = subject or self.subject(verb)
        if modal and isinstance(subject, NounPhrase) and not subject.noun.tags & ANIMATE:
            raise NoChoiceError
        clause = Clause(subject, verb, "present" if tense in ("habit", "modal") else tense, modal=modal)
        clause = self.complete(clause, habit=tense == "habit")
        if verb.places and clause.place is None and clause.goal is None and self.chance(place if verb.frame else 0.75):
            clause = replace(clause, place=self.place(verb))
        return clause

    def verbs(self, tense: str) -> list[Verb]:
        """The verbs that can stand in this tense."""
        aspects = TENSES[tense]
        verbs = [verb for verb in self.lexicon.verbs if verb.aspect in aspects and (tense != "habit" or verb.habit)]
        return [verb for verb in verbs if tense != "modal" or verb.de not in UNPLANNED]

    def fits(self, verb: Verb, subject: Phrase) -> bool:
        """Whether this subject can do it."""
        if isinstance(subject, NounPhrase):
            spec = [item for item in verb.subjects if item != "pronoun"]
            return subject.noun in self.tagged(*spec)
        is_relative = subject.english(subject=True) in ("who", "that")
        return is_relative or "human" in verb.subjects or "pronoun" in verb.subjects

    def complete(self, clause: Clause, habit: bool = False) -> Clause:
        """Adds what the verb's frame asks for."""
        verb, subject = clause.verb, clause.subject
        frame = verb.frame
        if frame in ("lie", "stand", "hang"):
            noun = self.noun_for(verb.de, verb.objects)
            return replace(clause, accusative=self.thing(noun, subject), goal=self.position(frame, moving=True))
        if frame == "to":
            if self.chance(0.3) and verb.de == "fahren":
                city = self.city()
                return replace(clause, goal=Text(f"to {city.en}", f"nach {city.de}"))
            return replace(clause, goal=self.direction(self.noun_for(verb.de, verb.places)))
        if frame == "clock":
            return replace(clause, goal=self.text("clock"))
        if not frame:
            return clause
        target = self.target(verb, subject, habit)
        if frame.startswith("acc"):
            return replace(clause, accusative=target)
        if frame == "dat":
            return replace(clause, dative=target)
        if frame.startswith("dat+acc"):
            recipient = self.object_pronoun(subject) if self.chance(0.4) else self.person(subject=subject)
            return replace(clause, accusative=target, dative=recipient)
        return replace(clause, prepositional=target)

    def target(self, verb: Verb, subject: Phrase, habit: bool) -> Phrase:
        """The object itself; for people sometimes a pronoun."""
        if "dat+acc" not in verb.frame and self._takes_people(verb) and self.chance(0.3):
            return self.object_pronoun(subject)
        noun = self.noun_for(verb.de, verb.objects)
        if isinstance(subject, NounPhrase) and "child" in subject.noun.tags and noun.de in NOT_FOR_CHILDREN:
            raise NoChoiceError
        if noun.tags & {"adult", "child", "family", "infant"}:
            return self._human_target(verb, noun, subject)
        if verb.de == "riechen":
            return NounPhrase(noun, "", plural=not noun.is_mass and noun.de != "Fisch")
        if verb.frame == "accpl":
            return self.with_adjective(NounPhrase(noun, "" if verb.habit else "the", plural=True), 0.35)
        if verb.de == "haben":
            return self.with_adjective(NounPhrase(noun, "a"), 0.4)
        is_male = subject.possessive == "his" or (isinstance(subject, NounPhrase) and subject.noun.gender == "m")
        if verb.de in (*CLOTHES, "waschen") and noun.de in ("Rock", "Kleid") and is_male:
            raise NoChoiceError
        definite = "d" in verb.habit or (verb.aspect == "state" and verb.de != "brauchen")
        thing = self.thing(noun, subject, definite, indefinite=habit and "i" in verb.habit)
        if habit and thing.determiner in ("many", "some"):
            thing = replace(thing, determiner="")
        if verb.aspect == "state" and verb.de not in ("brauchen", "lieben") and thing.determiner != "this":
            thing = replace(thing, determiner="the")
        if verb.de in CLOTHES and thing.determiner in SEVERAL:
            return replace(thing, determiner="")
        if verb.de in CLOTHES and thing.determiner in (*POSSESSIVES, "your (formal)"):
            return replace(thing, determiner=subject.possessive, plural=thing.plural or subject.plural)
        if verb.de == "aus|leihen" and thing.determiner == subject.possessive:
            return replace(thing, determiner="the")
        if thing.adjective and thing.adjective.de in IMPLAUSIBLE.get(verb.de, ()):
            raise NoChoiceError
        return thing

    def _takes_people(self, verb: Verb) -> bool:
        people = [noun for noun in verb.objects if noun.tags & {"adult", "family"}]
        return verb.aspect != "state" and len(people) > len(verb.objects) / 2

    def _human_target(self, verb: Verb, noun: Noun, subject: Phrase) -> Phrase:
        if verb.frame == "accpl":
            return NounPhrase(noun, "the", plural=True)
        if verb.de == "haben":
            plural = "one" not in noun.tags and self.chance(0.5)
            return self.with_adjective(NounPhrase(noun, self.pick(("two", "three")) if plural else "a", plural), 0.3)
        return self.person_phrase(noun, subject)


def both_ways(en: str, de: str, case: str, phrase: NounPhrase) -> Text:
    """A prepositional phrase in both languages."""
    return Text(f"{en} {phrase.english()}", prepositional(de, case, phrase))
