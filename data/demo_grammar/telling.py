"""From clauses to sentences, and expressions of time: what all templates share."""

from dataclasses import replace

from demo_grammar import phrases
from demo_grammar.clauses import BE, Clause, english_clause, finish, german_final, german_main
from demo_grammar.lexicon import Text, Verb
from demo_grammar.phrases import Name, NounPhrase, Phrase
from demo_grammar.plausibility import SEVERAL
from demo_grammar.sampler import Sampler


def statement(clause: Clause, front: Text | None = None) -> Text:
    """A main clause; with `front`, one that begins with a time or a place."""
    if not front:
        return Text(english_clause(clause), german_main(clause))
    if front == clause.time:
        clause = replace(clause, time=None)
    return Text(f"{front.en}, {english_clause(clause)}", german_main(clause, front.de))


def sentence(text: Text, mark: str = ".") -> Text:
    """Both sides with a capital and a mark."""
    return Text(finish(text.en, mark), finish(text.de, mark))


def perhaps_fronted(s: Sampler, clause: Clause, probability: float = 0.45) -> Text:
    """The clause with its time first, or at its usual place."""
    return statement(clause, clause.time if clause.time and s.chance(probability) else None)


def joined(s: Sampler, main: Clause, side: Text) -> Text:
    """The subordinate clause after the main one, or before it: then it is the first element, and the verb follows."""
    if s.chance(0.5):
        return Text(f"{english_clause(main)} {side.en}", f"{german_main(main)}, {side.de}")
    return Text(f"{side.en}, {english_clause(main)}", german_main(main, f"{side.de},"))


def subordinate(conjunction: Text, clause: Clause) -> Text:
    """A subordinate clause with its conjunction."""
    return Text(f"{conjunction.en} {english_clause(clause)}", german_final(clause, conjunction.de))


def be(subject: Phrase, predicate: Text, tense: str = "present") -> Clause:
    """Somebody or something is ..."""
    return Clause(subject, BE, tense, goal=predicate)


def without_frames(s: Sampler, kind: str, *frames: str) -> list[Verb]:
    """The verbs for this tense that take none of these frames."""
    return [verb for verb in s.verbs(kind) if verb.frame not in frames]


def named(s: Sampler, kind: str, names: tuple[str, ...]) -> list[Verb]:
    """The verbs for this tense that are in a list."""
    return [verb for verb in s.verbs(kind) if verb.de in names]


def bare(spec: tuple[str, ...]) -> tuple[str, ...]:
    """A verb's subjects without the pronouns: nouns only."""
    return tuple(item for item in spec if item != "pronoun")


def known_subject(clause: Clause) -> Clause:
    """Habits are those of somebody known: not "a boy often cries"."""
    subject = clause.subject
    if isinstance(subject, NounPhrase) and subject.determiner in ("a", *SEVERAL):
        return replace(clause, subject=replace(subject, determiner="the"))
    return clause


def past_time(s: Sampler, verb: Verb) -> Text:
    """Daily things happened a few days ago; building a house takes years."""
    return s.text("day ago" if verb.frame == "clock" else "recent" if verb.habit else "past")


def future_time(s: Sampler, verb: Verb) -> Text:
    """When it will be: soon for daily things."""
    return s.text("day" if verb.frame == "clock" else "near" if verb.habit or verb.frame == "dat+acc" else "future")


def time_for(s: Sampler, kind: str, verb: Verb) -> Text:
    """When it was, is or will be."""
    if kind == "past":
        return past_time(s, verb)
    return s.text("now") if kind == "progressive" else future_time(s, verb)


def pronoun_for(subject: Phrase) -> Phrase:
    """The pronoun for a subject that is mentioned again."""
    if isinstance(subject, Name):
        return phrases.HE if subject.possessive == "his" else phrases.SHE
    return subject
