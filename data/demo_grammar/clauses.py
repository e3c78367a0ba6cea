"""Clauses: one structure, put into words in English and, with German word order, in German."""

import re
from dataclasses import dataclass, replace

from demo_grammar import english, german
from demo_grammar.english import Modal
from demo_grammar.lexicon import Text, Verb
from demo_grammar.phrases import NounPhrase, Phrase, prepositional

NOT = Text("not", "nicht")
NEVER = Text("never", "nie")
ALREADY = Text("already", "schon")

BE = Verb("be", "was", "been", "sein", "", "", "gewesen", "sein", "goal", "state", "", (), (), ())


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause, before its words are put in order.

    `goal` stands last: a direction, or what follows be. `adverb` is one of often, always and the like; `focus` is NOT,
    NEVER or ALREADY. German says not + indefinite article as kein.
    """

    subject: Phrase
    verb: Verb
    tense: str = "present"
    modal: Modal | None = None
    accusative: Phrase | None = None
    dative: Phrase | None = None
    prepositional: Phrase | None = None
    place: Text | None = None
    time: Text | None = None
    goal: Text | None = None
    adverb: Text | None = None
    focus: Text | None = None


def english_clause(clause: Clause, question: bool = False) -> str:
    """Subject first, or the auxiliary first in a question."""
    needs_auxiliary = question or clause.focus == NOT
    subject = clause.subject
    group = english.verb_group(clause.verb, clause.tense, clause.modal, subject.person, subject.plural, needs_auxiliary)
    lead = [group.auxiliary, subject.english(subject=True)] if question else [subject.english(subject=True)]
    auxiliary = [] if question else [group.auxiliary]
    words = [*lead, *auxiliary, *_english_adverbs(clause), group.main, *_english_objects(clause, group.particle)]
    words += [part.en for part in (clause.goal, clause.place, clause.time) if part]
    return _join(words)


def english_infinitive(clause: Clause) -> str:
    """Read the book in the garden; the subject stays unsaid."""
    words, _, particle = clause.verb.en.partition("|")
    parts = [words, *_english_objects(clause, particle), clause.goal, clause.place, clause.time]
    return _join([part.en if isinstance(part, Text) else part for part in parts if part])


def _english_adverbs(clause: Clause) -> list[str]:
    return [adverb.en for adverb in (clause.focus, clause.adverb) if adverb]


def _english_objects(clause: Clause, particle: str) -> list[str]:
    direct = clause.accusative or clause.prepositional
    if clause.dative and clause.verb.frame == "dat+acc" and direct:
        return [clause.dative.english(), direct.english(), particle]
    if clause.dative and direct:
        return [direct.english(), particle, f"to {clause.dative.english()}"]
    direct = direct or clause.dative
    if direct is None:
        return [particle]
    if direct.is_pronoun or clause.verb.en == "be":
        return [direct.english(), particle]
    return [particle, direct.english()]


def german_main(clause: Clause, front: str = "") -> str:
    """Verb second: `front` or else the subject stands first. A fronted time is not repeated."""
    clause = _kein(clause)
    group = _german_group(clause)
    if not front:
        return _join([clause.subject.german("nom"), group.finite, *_middle(clause), group.tail])
    if clause.time and front == clause.time.de:
        clause = replace(clause, time=None)
    return _join([front, group.finite, *_subject_and_middle(clause), group.tail])


def german_question(clause: Clause, question_word: str = "") -> str:
    """The verb first, or second after a question word."""
    clause = _kein(clause)
    group = _german_group(clause)
    return _join([question_word, group.finite, *_subject_and_middle(clause), group.tail])


def german_final(clause: Clause, conjunction: str = "") -> str:
    """A subordinate clause: weil er das Buch gelesen hat."""
    clause = _kein(clause)
    return _join([conjunction, *_subject_and_middle(clause), _german_group(clause).final])


def german_infinitive(clause: Clause) -> str:
    """Das Zimmer aufzuräumen."""
    clause = _kein(clause)
    return _join([*_middle(clause), german.zu_infinitive(clause.verb.de)])


def _german_group(clause: Clause) -> german.VerbGroup:
    modal = clause.modal.de if clause.modal else ""
    tense = "present" if clause.tense == "progressive" else clause.tense
    return german.verb_group(clause.verb, tense, modal, clause.subject.person, clause.subject.plural)


def _kein(clause: Clause) -> Clause:
    target = clause.accusative
    if clause.focus == NOT and isinstance(target, NounPhrase) and target.determiner in ("a", ""):
        return replace(clause, focus=None, accusative=replace(target, determiner="no"))
    return clause


def _reflexive(clause: Clause) -> str:
    if not clause.verb.is_reflexive:
        return ""
    return german.REFLEXIVE.get((clause.subject.person, clause.subject.plural), "sich")


def _subject_and_middle(clause: Clause) -> list[str]:
    """The subject after the verb or the conjunction; sich stands before a noun (freut sich das Kind)."""
    subject = clause.subject.german("nom")
    middle = _middle(clause)
    if clause.verb.is_reflexive and not clause.subject.is_pronoun:
        return [middle[0], subject, *middle[1:]]
    return [subject, *middle]


def _middle(clause: Clause) -> list[str]:
    """The middle field: pronouns, time, dative, then what is known before what is new, then nicht and its scope."""
    accusative, dative = clause.accusative, clause.dative
    parts: list[str] = [_reflexive(clause)]
    for phrase, case in ((accusative, "acc"), (dative, "dat")):
        if phrase and phrase.is_pronoun:
            parts.append(phrase.german(case))
    parts += [part.de for part in (clause.adverb, clause.time) if part]
    if dative and not dative.is_pronoun:
        parts.append(dative.german("dat"))
    place = clause.place.de if clause.place else ""
    focus = clause.focus.de if clause.focus else ""
    if accusative is None or accusative.is_pronoun:
        parts += [focus, place]
    elif accusative.is_definite:
        parts += [accusative.german("acc"), focus, place]
    else:
        parts += [focus, place, accusative.german("acc")]
    if clause.prepositional:
        preposition, _, case = clause.verb.frame.partition("+")
        # ins Haus is a direction; as the object of a verb, an das Haus (denken) stays in full.
        parts.append(
            prepositional(preposition, case, clause.prepositional)
            if case == "dat"
            else f"{preposition} {clause.prepositional.german(case)}"
        )
    return [*parts, clause.goal.de if clause.goal else ""]


def _join(words: list[str]) -> str:
    return re.sub(" +", " ", " ".join(word for word in words if word)).strip().replace("can not ", "cannot ")


def finish(text: str, mark: str = ".") -> str:
    """A capital at the start, a mark at the end, no doubled commas."""
    text = re.sub(" +", " ", text.strip())
    text = re.sub(r"\s+,", ",", text).rstrip(",")
    text = re.sub(",+", ",", text)
    return text[0].upper() + text[1:] + mark
