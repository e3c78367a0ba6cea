"""Questions and polite requests."""

from dataclasses import replace

from demo_grammar import phrases
from demo_grammar.clauses import english_clause, english_infinitive, german_main, german_question
from demo_grammar.english import CAN, HAVE_TO, MAY, MUST, WANT_TO, WOULD_LIKE
from demo_grammar.lexicon import Text
from demo_grammar.phrases import NounPhrase
from demo_grammar.plausibility import UNPLANNED
from demo_grammar.sampler import NoChoiceError, Sampler
from demo_grammar.telling import known_subject, sentence, time_for, without_frames


def yes_no(s: Sampler) -> Text:
    """Did she find the key?"""
    kind = s.pick(("past", "habit", "future", "modal", "progressive", "present"))
    subject = s.pick((phrases.YOU, phrases.YOU, s.someone(), None, None))
    clause = s.clause(
        kind, subject=subject, modal=s.pick((CAN, WANT_TO, MUST, MAY, WOULD_LIKE)) if kind == "modal" else None
    )
    if kind not in ("present", "habit") and s.chance(0.4):
        clause = replace(clause, time=time_for(s, kind, clause.verb))
    text = Text(english_clause(clause, question=True), german_question(clause))
    if subject == phrases.YOU and s.chance(0.5):
        name = s.name()
        text = Text(f"{name.en}, {text.en}", f"{name.de}, {text.de}")
    return sentence(text, "?")


def polite_question(s: Sampler) -> Text:
    """Mrs Weber, would you like to ...? Two adults say Sie."""
    kind = s.pick(("past", "modal", "future"))
    name = s.titled_name()
    modals = (CAN, WANT_TO, WOULD_LIKE, HAVE_TO)
    clause = s.clause(kind, subject=phrases.FORMAL_YOU, modal=s.pick(modals) if kind == "modal" else None)
    if s.chance(0.4):
        clause = replace(clause, time=time_for(s, kind, clause.verb))
    en, de = english_clause(clause, question=True), german_question(clause)
    return sentence(Text(f"{name.english()}, {en}", f"{name.german('nom')}, {de}"), "?")


def wh_question(s: Sampler) -> Text:
    """Where did she find the key?"""
    word = s.pick((Text("when", "wann"), Text("why", "warum"), Text("where", "wo"), Text("how often", "wie oft")))
    s.words.add(word.de)
    kinds = {
        "when": ("past", "future"),
        "why": ("past", "progressive"),
        "where": ("past", "modal"),
        "how often": ("habit",),
    }
    kind = s.pick(kinds[word.en])
    verbs = without_frames(s, kind, "clock", "lie", "stand", "hang", *(("to",) if word.en == "where" else ()))
    verbs = [verb for verb in verbs if verb.de != "sitzen"]
    if word.en == "where":
        verbs = [verb for verb in verbs if verb.places]
    modal = s.pick((CAN, WANT_TO)) if kind == "modal" else None
    clause = s.clause(kind, verbs=verbs, modal=modal, place=0)
    if clause.subject == phrases.I:
        raise NoChoiceError
    clause = replace(known_subject(clause), place=None)
    en, de = english_clause(clause, question=True), german_question(clause, word.de)
    return sentence(Text(f"{word.en} {en}", de), "?")


def who_question(s: Sampler) -> Text:
    """Who found the key? Without do, and with the German nominative."""
    kind = s.pick(("past", "past", "future", "modal"))
    modal = s.pick((CAN, WANT_TO, HAVE_TO)) if kind == "modal" else None
    verbs = [verb for verb in without_frames(s, kind, "clock") if "human" in verb.subjects]
    clause = s.clause(kind, subject=phrases.WHO, verbs=verbs, modal=modal)
    if s.chance(0.4):
        clause = replace(clause, time=time_for(s, kind, clause.verb))
    return sentence(Text(english_clause(clause), german_main(clause)), "?")


def request(s: Sampler) -> Text:
    """Please, Mr Wagner, open the window: the polite imperative puts Sie after the verb."""
    verbs = [
        verb for verb in without_frames(s, "future", "clock", "") if verb.aspect == "act" and "human" in verb.subjects
    ]
    verbs = [verb for verb in verbs if verb.de not in (*UNPLANNED, "danken", "beobachten")]
    clause = s.clause("future", subject=phrases.FORMAL_YOU, verbs=verbs, place=0.3)
    if isinstance(clause.prepositional, NounPhrase) and not clause.prepositional.is_definite:
        raise NoChoiceError
    clause = replace(clause, tense="present")
    name = s.titled_name()
    en, de = english_infinitive(clause), german_question(clause)
    return sentence(Text(f"please {en}, {name.english()}", f"bitte {de}, {name.german('nom')}"), "!")
