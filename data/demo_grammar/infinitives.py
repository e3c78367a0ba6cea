"""Infinitives with zu, the passive, and pronouns for nouns mentioned before."""

from dataclasses import replace

from demo_grammar import english, german, phrases
from demo_grammar.clauses import Clause, english_clause, english_infinitive, german_infinitive, german_main
from demo_grammar.lexicon import Text, Verb
from demo_grammar.plausibility import IMPLAUSIBLE
from demo_grammar.sampler import NoChoiceError, Sampler
from demo_grammar.telling import past_time, perhaps_fronted, sentence, without_frames

AIMLESS = ("sitzen", "laufen", "lachen", "weinen", "spazieren |gehen", "warten", "singen", "denken")


def purpose(s: Sampler) -> Text:
    """She goes to the market to buy fruit: um ... zu."""
    go = s.lexicon.verb("gehen")
    verbs = [
        verb
        for verb in without_frames(s, "future", "clock", "to")
        if verb.de not in AIMLESS and set(verb.places) & set(go.places)
    ]
    subject = s.someone()
    verb = s.pick([verb for verb in verbs if s.fits(verb, subject) and verb.habit])
    place = s.noun_for("gehen", [noun for noun in verb.places if noun in go.places])
    clause = s.clause("future", subject=subject, verbs=[verb], place=0)
    motion = Clause(subject, go, s.pick(("past", "future", "progressive")), goal=s.direction(place))
    if motion.tense == "past":
        motion = replace(motion, time=s.text("recent"))
    clause = replace(clause, place=None)
    main = perhaps_fronted(s, motion)
    return sentence(Text(f"{main.en} to {english_infinitive(clause)}", f"{main.de}, um {german_infinitive(clause)}"))


ATTEMPTS = (
    ("try", "tried", "versuchen", "versucht", "trying"),
    ("promise", "promised", "versprechen", "versprochen", ""),
    ("decide", "decided", "beschließen", "beschlossen", ""),
    ("forget", "forgot", "vergessen", "vergessen", ""),
)


def attempt(s: Sampler) -> Text:
    """He tried to repair the car: er hat versucht, das Auto zu reparieren."""
    en, past_form, de, partizip, _ = s.pick(ATTEMPTS)
    s.words.add(de)
    verb = Verb(en, past_form, past_form, de, "", "", partizip, "haben", "", "", "", (), (), ())
    subject = s.subject(s.lexicon.verb("lesen"))
    clause = s.clause("future", subject=subject, verbs=without_frames(s, "modal", "clock", "to", ""), place=0.2)
    if clause.verb.aspect != "act" and en in ("decide", "forget"):
        raise NoChoiceError
    main = Clause(subject, verb, "past")
    return sentence(
        Text(
            f"{english_clause(main)} to {english_infinitive(clause)}",
            f"{german_main(main)}, {german_infinitive(clause)}",
        )
    )


def passive(s: Sampler) -> Text:
    """The bridge was repaired last week: die Brücke wurde letzte Woche repariert."""
    verb = s.pick([s.lexicon.verb(name) for name in PASSIVE])
    noun = s.noun_for(verb.de, verb.objects)
    s.words.add(verb.de)
    thing = s.thing(noun, None, definite=True)
    if thing.adjective and thing.adjective.de in IMPLAUSIBLE.get(verb.de, ()):
        raise NoChoiceError
    if thing.determiner not in ("the", "my", "our"):
        thing = replace(thing, determiner="the")
    is_past = s.chance(0.65)
    group = german.passive_group(verb, is_past, thing.plural)
    time = past_time(s, verb) if is_past else Text("at the moment", "im Moment")
    be_form = english.be(3, thing.plural, is_past) + ("" if is_past else " being")
    core = f"{thing.english()} {be_form} {verb.participle.replace('|', ' ')} {verb.en.partition('|')[2]}"
    if s.chance(0.4):
        return sentence(Text(f"{time.en}, {core}", f"{time.de} {group.finite} {thing.german('nom')} {group.tail}"))
    return sentence(Text(f"{core} {time.en}", f"{thing.german('nom')} {group.finite} {time.de} {group.tail}"))


PASSIVE = (
    "reparieren",
    "bauen",
    "verkaufen",
    "übersetzen",
    "putzen",
    "waschen",
    "auf|räumen",
    "öffnen",
    "schließen",
    "pflanzen",
)


def pronoun_back(s: Sampler) -> Text:
    """She buys the lamp and gives it to him: the pronoun takes the gender of the noun, die Lampe ... sie."""
    first_de, second_de = s.pick(SEQUENCES)
    first, second = s.lexicon.verb(first_de), s.lexicon.verb(second_de)
    both = [
        noun
        for noun in first.objects
        if noun in second.objects and not noun.tags & {"adult", "child", "family", "infant"}
    ]
    noun = s.noun_for(first.de, [noun for noun in both if s.accept(second, noun)])
    s.pairs.add((second.de, noun.de))
    s.words.update((first.de, second.de))
    subject = s.someone()
    thing = s.thing(noun, subject)
    if not thing.determiner or thing.determiner in ("some", "many"):
        thing = replace(thing, determiner="the")
    if thing.adjective and thing.adjective.de in IMPLAUSIBLE.get(first.de, ()):
        raise NoChoiceError
    one = Clause(subject, first, "past", accusative=thing)
    two = Clause(phrases.NONE_GIVEN, second, "past", accusative=phrases.it(noun, thing.plural))
    two_tail = Clause(subject, second, "past", accusative=phrases.it(noun, thing.plural))
    de_second = german_main(two_tail).split(" ", subject.german("nom").count(" ") + 2)[-1]
    if first.aux != second.aux:
        raise NoChoiceError
    return sentence(Text(f"{english_clause(one)} and {english_clause(two)}", f"{german_main(one)} und {de_second}"))


SEQUENCES = (
    ("finden", "mit|nehmen"),
    ("kaufen", "essen"),
    ("kaufen", "lesen"),
    ("schreiben", "korrigieren"),
    ("übersetzen", "korrigieren"),
    ("waschen", "an|ziehen"),
    ("waschen", "essen"),
    ("reparieren", "verkaufen"),
    ("suchen", "finden"),
    ("pflücken", "essen"),
    ("backen", "essen"),
    ("lesen", "übersetzen"),
    ("malen", "fotografieren"),
    ("aus|leihen", "zurück|bringen"),
    ("öffnen", "schließen"),
    ("lesen", "weg|werfen"),
    ("kaufen", "verkaufen"),
    ("zeichnen", "malen"),
)
