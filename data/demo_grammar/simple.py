"""Simple statements: habits, states, the past, modals, the future, negation, where things are."""

from dataclasses import replace

from demo_grammar import english
from demo_grammar.clauses import ALREADY, NEVER, NOT, Clause, english_clause, german_main
from demo_grammar.english import CAN, HAVE_TO, SHOULD, WANT_TO, WOULD_LIKE
from demo_grammar.lexicon import Text, Verb
from demo_grammar.phrases import NounPhrase
from demo_grammar.sampler import NoChoiceError, Sampler
from demo_grammar.telling import (
    future_time,
    known_subject,
    past_time,
    perhaps_fronted,
    sentence,
    statement,
    time_for,
    without_frames,
)


def habit(s: Sampler) -> Text:
    """She often drinks tea."""
    clause = known_subject(s.clause("habit"))
    if s.chance(0.45):
        clause = replace(clause, adverb=s.text("often"))
    elif clause.verb.habit != "x" and s.chance(0.15):
        clause = replace(clause, focus=NEVER)
    else:
        clause = replace(clause, time=s.text("habit"))
    return sentence(perhaps_fronted(s, clause))


def state(s: Sampler) -> Text:
    """She knows the teacher."""
    clause = s.clause("present", place=0.8)
    if s.chance(0.3):
        clause = replace(clause, focus=NOT)
    return sentence(statement(clause))


def ongoing(s: Sampler) -> Text:
    """She is reading a book now."""
    clause = s.clause("progressive", verbs=without_frames(s, "progressive", "clock"), place=0.35)
    if s.chance(0.6):
        clause = replace(clause, time=s.text("now"))
    return sentence(perhaps_fronted(s, clause))


def past(s: Sampler) -> Text:
    """She found the key yesterday: the German perfect."""
    clause = s.clause("past")
    clause = replace(clause, time=past_time(s, clause.verb))
    return sentence(perhaps_fronted(s, clause))


def duration(s: Sampler) -> Text:
    """He waited for two hours: an activity without an end."""
    subject_verbs = [s.lexicon.verb(name, frame) for name, frame in DURATIVE]
    clause = s.clause("past", verbs=subject_verbs, place=0.7)
    return sentence(statement(replace(clause, time=s.text("duration"))))


DURATIVE = (
    ("schlafen", ""),
    ("arbeiten", ""),
    ("tanzen", ""),
    ("schwimmen", ""),
    ("warten", ""),
    ("warten", "auf+acc"),
    ("sprechen", "mit+dat"),
    ("sprechen", "über+acc"),
    ("suchen", "acc"),
)


def perfect(s: Sampler) -> Text:
    """She has already found the key."""
    clause = s.clause("perfect", verbs=without_frames(s, "perfect", "clock", "to", ""), place=0)
    target = clause.accusative
    is_open = isinstance(target, NounPhrase) and target.determiner in ("a", "")
    focus = s.pick((ALREADY, NEVER)) if is_open else ALREADY
    return sentence(statement(replace(clause, focus=focus)))


def modal(s: Sampler) -> Text:
    """She wants to find the key."""
    clause = s.clause("modal", modal=s.pick(english.MODALS))
    return sentence(modal_with_time(s, clause))


def modal_with_time(s: Sampler, clause: Clause) -> Text:
    """A modal in the past or about the future."""
    assert clause.modal is not None
    if clause.modal.past and s.chance(0.4):
        return perhaps_fronted(s, replace(clause, tense="past", time=past_time(s, clause.verb)))
    if s.chance(0.55):
        clause = replace(clause, time=future_time(s, clause.verb))
    return perhaps_fronted(s, clause)


def future(s: Sampler) -> Text:
    """She will find the key tomorrow."""
    clause = s.clause("future")
    return sentence(perhaps_fronted(s, replace(clause, time=future_time(s, clause.verb))))


def negation(s: Sampler) -> Text:
    """She did not find the key."""
    kind = s.pick(("past", "habit", "future", "modal", "progressive"))
    verbs = without_frames(s, kind, "clock", "to")
    if kind == "habit":
        verbs = [verb for verb in verbs if verb.frame in ("", "acc")]
    clause = s.clause(
        kind, verbs=verbs, modal=s.pick((CAN, HAVE_TO, WANT_TO, SHOULD)) if kind == "modal" else None, place=0
    )
    clause = replace(clause, focus=NOT)
    if kind == "habit" or s.chance(0.3):
        return sentence(statement(clause))
    time = time_for(s, kind, clause.verb)
    if time.de == "bald":
        raise NoChoiceError
    return sentence(statement(replace(clause, time=time), front=time))


def there_is(s: Sampler) -> Text:
    """Es gibt takes the accusative."""
    place_de, spec = s.pick(CONTENTS)
    place = s.lexicon.noun(place_de)
    s.used.add(place_de)
    noun = s.free_noun(s.tagged(*spec.split()))
    thing = s.thing(noun, None, indefinite=True)
    thing = s.with_adjective(thing, 0.8) if not thing.adjective else thing
    where = s.location(place)
    verb = "are" if thing.plural else "is"
    if s.chance(0.5):
        return sentence(
            Text(f"{where.en}, there {verb} {thing.english()}", f"{where.de} gibt es {thing.german('acc')}")
        )
    return sentence(Text(f"there {verb} {thing.english()} {where.en}", f"es gibt {where.de} {thing.german('acc')}"))


TOWN = "=Kirche =Schule =Schloss =Museum =Hotel =Restaurant =Turm =Bahnhof =Park =Theater =Bäckerei =Café =Fabrik"


CONTENTS = (
    ("Dorf", TOWN),
    ("Stadt", TOWN),
    ("Stadt", "=Krankenhaus =Bibliothek =Universität =Zoo =Flughafen =Hafen =Kino =Supermarkt =Brücke"),
    ("Insel", "=Hotel =Dorf =Strand =Berg =Hafen =See =Kirche =Schloss =Wald =Restaurant"),
    ("Garten", "plant =Tisch =Stuhl =Vogel =Katze =Leiter =Kaninchen"),
    ("Park", "plant =Café =Spielplatz =See =Ente =Hund =Brücke =Vogel"),
    ("Küche", "=Tisch =Stuhl =Lampe =Radio =Schrank =Regal =Fenster =Waschmaschine =Uhr"),
    ("Wohnzimmer", "=Sofa =Teppich =Bild =Fernseher =Lampe =Uhr =Klavier =Regal =Spiegel"),
    ("Schlafzimmer", "=Bett =Schrank =Spiegel =Lampe =Bild =Teppich"),
    ("Keller", "=Kiste =Waschmaschine =Leiter =Korb =Fahrrad =Flasche =Maus =Regal"),
    ("Garage", "=Auto =Motorrad =Fahrrad =Leiter =Kiste"),
    ("Zoo", "zoo =Vogel =Ziege =Restaurant"),
    ("Wald", "=Bär =Kaninchen =See =Vogel =Maus"),
    ("Wiese", "farm bloom =Baum"),
    ("Büro", "=Computer =Telefon =Lampe =Stuhl =Schrank =Uhr =Tisch"),
    ("Markt", "fruit =Käse =Honig =Fisch =Brot =Blume =Kartoffel =Ei"),
    ("Hotel", "=Restaurant =Zimmer =Gast"),
    ("Hafen", "boat"),
    ("Schule", "=Bibliothek =Lehrer =Computer =Küche"),
)


def position(s: Sampler) -> Text:
    """The book is on the table: liegen, stehen or hängen, with the dative."""
    way, german_verb = s.pick((("lie", "liegen"), ("stand", "stehen"), ("hang", "hängen")))
    english_verb = "hang" if way == "hang" else "be"
    noun = s.free_noun(s.tagged(way))
    things = s.with_adjective(s.thing(noun, None, definite=s.chance(0.6)), 0.9)
    verb = Verb(english_verb, "was", "been", german_verb, "", "", "", "haben", "goal", "state", "", (), (), ())
    where = s.position(way, moving=False)
    tense = "progressive" if way == "hang" else "present"
    clause = Clause(things, verb, tense, goal=where)
    return sentence(statement(clause))


def contrast(s: Sampler) -> Text:
    """Two clauses with und or aber, which leave the word order as it is."""
    first, second = s.someone(), s.someone()
    if first.english() == second.english():
        raise NoChoiceError
    kind = s.pick(("progressive", "past", "modal"))
    modal = s.pick((WANT_TO, WOULD_LIKE)) if kind == "modal" else None
    verbs = without_frames(s, kind, "clock", "lie", "stand", "hang")
    one = s.clause(kind, subject=first, verbs=verbs, modal=modal, place=0.2)
    two = s.clause(kind, subject=second, verbs=verbs, modal=modal, place=0.2)
    word = s.pick((Text("and", "und"), Text("but", "aber")))
    comma = "," if word.en == "but" else ""
    return sentence(
        Text(
            f"{english_clause(one)}{comma} {word.en} {english_clause(two)}",
            f"{german_main(one)}{comma} {word.de} {german_main(two)}",
        )
    )


def play_instrument(s: Sampler) -> Text:
    """She plays the piano: sie spielt Klavier, without an article."""
    noun = s.noun_for("spielen", s.tagged("instrument"))
    s.words.add("spielen")
    verb = Verb("play", "played", "played", "spielen", "", "", "gespielt", "haben", "goal", "act", "i", (), (), ())
    subject = s.subject(s.lexicon.verb("lesen"))
    clause = Clause(subject, verb, goal=Text(f"the {noun.en}", noun.de))
    kind = s.pick(("habit", "learn", "want", "past"))
    if kind == "habit":
        return sentence(perhaps_fronted(s, replace(clause, time=s.text("habit"))))
    if kind == "past":
        return sentence(perhaps_fronted(s, replace(clause, tense="past", time=s.text("recent"))))
    clause = replace(
        clause, modal=s.pick((CAN, WANT_TO, WOULD_LIKE, HAVE_TO)), time=s.text("near") if kind == "want" else None
    )
    return sentence(perhaps_fronted(s, clause))
