"""The kinds of sentences, with how often each is drawn."""

from collections.abc import Callable
from dataclasses import replace

from demo_grammar import english, german, phrases
from demo_grammar.clauses import (
    ALREADY,
    BE,
    NEVER,
    NOT,
    Clause,
    english_clause,
    english_infinitive,
    finish,
    german_final,
    german_infinitive,
    german_main,
    german_question,
)
from demo_grammar.english import Modal
from demo_grammar.lexicon import Noun, Text, Verb
from demo_grammar.phrases import Name, NounPhrase, Phrase, prepositional
from demo_grammar.sampler import OWNED, UNGRADED, NoChoiceError, Sampler

Template = Callable[[Sampler], Text]

CAN, HAVE_TO, MUST, WANT_TO, WOULD_LIKE, SHOULD, MAY = english.MODALS


def statement(clause: Clause, front: Text | None = None) -> Text:
    """A main clause; with `front`, one that begins with a time or a place."""
    if not front:
        return Text(english_clause(clause), german_main(clause))
    if front == clause.time:
        clause = replace(clause, time=None)
    return Text(f"{front.en}, {english_clause(clause)}", german_main(clause, front.de))


def sentence(text: Text, mark: str = ".") -> Text:
    return Text(finish(text.en, mark), finish(text.de, mark))


def perhaps_fronted(s: Sampler, clause: Clause, probability: float = 0.45) -> Text:
    return statement(clause, clause.time if clause.time and s.chance(probability) else None)


# Simple sentences


def habit(s: Sampler) -> Text:
    clause = s.clause("habit")
    if s.chance(0.45):
        clause = replace(clause, adverb=s.text("often"))
    elif clause.verb.habit != "x" and s.chance(0.15):
        clause = replace(clause, focus=NEVER)
    else:
        clause = replace(clause, time=s.text("habit"))
    return sentence(perhaps_fronted(s, clause))


def state(s: Sampler) -> Text:
    clause = s.clause("present", place=0.8)
    if s.chance(0.3):
        clause = replace(clause, focus=NOT)
    return sentence(statement(clause))


def ongoing(s: Sampler) -> Text:
    clause = s.clause("progressive", verbs=without_frames(s, "progressive", "clock"), place=0.35)
    if s.chance(0.6):
        clause = replace(clause, time=s.text("now"))
    return sentence(perhaps_fronted(s, clause))


def past(s: Sampler) -> Text:
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
    clause = s.clause("perfect", verbs=without_frames(s, "perfect", "clock", "to", ""), place=0)
    target = clause.accusative
    is_open = isinstance(target, NounPhrase) and target.determiner in ("a", "")
    focus = s.pick((ALREADY, NEVER)) if is_open else ALREADY
    return sentence(statement(replace(clause, focus=focus)))


def modal(s: Sampler) -> Text:
    clause = s.clause("modal", modal=s.pick(english.MODALS))
    return sentence(modal_with_time(s, clause))


def modal_with_time(s: Sampler, clause: Clause) -> Text:
    assert clause.modal is not None
    if clause.modal.past and s.chance(0.4):
        if clause.modal == MAY and clause.subject.plural:
            clause = replace(clause, modal=replace(MAY, past="were allowed to"))
        return perhaps_fronted(s, replace(clause, tense="past", time=past_time(s, clause.verb)))
    if s.chance(0.55):
        clause = replace(clause, time=future_time(s, clause.verb))
    return perhaps_fronted(s, clause)


def future(s: Sampler) -> Text:
    clause = s.clause("future")
    return sentence(perhaps_fronted(s, replace(clause, time=future_time(s, clause.verb))))


def negation(s: Sampler) -> Text:
    kind = s.pick(("past", "habit", "future", "modal", "progressive"))
    verbs = without_frames(s, kind, "clock", "to")
    if kind == "habit":
        verbs = [verb for verb in verbs if verb.frame in ("", "acc")]
    clause = s.clause(kind, verbs=verbs, modal=s.pick((CAN, HAVE_TO, WANT_TO, SHOULD)) if kind == "modal" else None, place=0)
    clause = replace(clause, focus=NOT)
    if kind == "habit" or s.chance(0.3):
        return sentence(statement(clause))
    time = time_for(s, kind, clause.verb)
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


# Questions


def yes_no(s: Sampler) -> Text:
    kind = s.pick(("past", "habit", "future", "modal", "progressive", "present"))
    subject = s.pick((phrases.YOU, phrases.YOU, s.someone(), None, None))
    clause = s.clause(kind, subject=subject, modal=s.pick((CAN, WANT_TO, MUST, MAY, WOULD_LIKE)) if kind == "modal" else None)
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
    word = s.pick((Text("when", "wann"), Text("why", "warum"), Text("where", "wo"), Text("how often", "wie oft")))
    s.words.add(word.de)
    kinds = {"when": ("past", "future"), "why": ("past", "progressive"), "where": ("past", "modal"), "how often": ("habit",)}
    kind = s.pick(kinds[word.en])
    verbs = without_frames(s, kind, "clock", "lie", "stand", "hang", *(("to",) if word.en == "where" else ()))
    if word.en == "where":
        verbs = [verb for verb in verbs if verb.places]
    modal = s.pick((CAN, WANT_TO)) if kind == "modal" else None
    clause = s.clause(kind, verbs=verbs, modal=modal, place=0)
    clause = replace(clause, place=None)
    en, de = english_clause(clause, question=True), german_question(clause, word.de)
    return sentence(Text(f"{word.en} {en}", de), "?")


def who_question(s: Sampler) -> Text:
    kind = s.pick(("past", "past", "future", "modal"))
    modal = s.pick((CAN, WANT_TO, HAVE_TO)) if kind == "modal" else None
    verbs = [verb for verb in without_frames(s, kind, "clock") if "human" in verb.subjects]
    clause = s.clause(kind, subject=phrases.WHO, verbs=verbs, modal=modal)
    if s.chance(0.4):
        clause = replace(clause, time=time_for(s, kind, clause.verb))
    return sentence(Text(english_clause(clause), german_main(clause)), "?")


def request(s: Sampler) -> Text:
    """Please, Mr Wagner, open the window: the polite imperative puts Sie after the verb."""
    verbs = [verb for verb in without_frames(s, "future", "clock", "") if verb.aspect == "act" and "human" in verb.subjects]
    clause = s.clause("future", subject=phrases.FORMAL_YOU, verbs=verbs, place=0.3)
    clause = replace(clause, tense="present")
    name = s.titled_name()
    en, de = english_infinitive(clause), german_question(clause)
    return sentence(Text(f"please {en}, {name.english()}", f"bitte {de}, {name.german('nom')}"), "!")


# Complex sentences

WEATHER = (
    Text("it is raining", "es regnet"),
    Text("it is snowing", "es schneit"),
    Text("it is cold", "es kalt ist"),
    Text("it is very hot", "es sehr heiß ist"),
    Text("the weather is bad", "das Wetter schlecht ist"),
)
CONDITIONS = (
    (Text("it rains", "es regnet"), "indoors"),
    (Text("it snows", "es schneit"), "indoors"),
    (Text("the weather is bad", "das Wetter schlecht ist"), "indoors"),
    (Text("the sun shines", "die Sonne scheint"), "outdoors"),
    (Text("the weather is good", "das Wetter gut ist"), "outdoors"),
    (Text("it is warm", "es warm ist"), "outdoors"),
)
GOOD_NEWS = ("gewinnen", "finden", "besuchen", "an|rufen", "ein|laden", "helfen", "bringen", "schicken", "geben", "leihen")
GOOD_NEWS += ("kaufen", "reparieren", "zeigen", "auf|räumen", "backen", "ab|holen")
BAD_NEWS = ("verlieren", "zerbrechen", "vergessen", "verkaufen", "weg|werfen", "essen", "trinken", "verstecken")
HAPPY = (Text("happy", "glücklich"), Text("surprised", "überrascht"), Text("very proud", "sehr stolz"))
UNHAPPY = (Text("angry", "wütend"), Text("sad", "traurig"), Text("surprised", "überrascht"))
OUTDOORS = ("schwimmen", "spazieren |gehen", "laufen", "gießen", "pflücken", "füttern", "gehen", "fahren", "pflanzen")
OUTDOORS += ("reparieren", "waschen", "fotografieren", "beobachten", "besuchen", "zeichnen")
IN_THE_RAIN = ("spazieren |gehen", "laufen", "gehen", "fahren", "reparieren", "füttern", "fotografieren", "waschen")
INDOORS = ("lesen", "sehen", "kochen", "backen", "auf|räumen", "putzen", "schreiben", "besuchen", "reparieren", "lernen")
INDOORS += ("an|rufen", "malen", "trinken", "mit|nehmen", "schließen", "benutzen")
WORK = ("lesen", "schreiben", "helfen", "reparieren", "putzen", "auf|räumen", "kochen", "lernen", "übersetzen", "arbeiten")
WORK += ("sich kümmern", "korrigieren", "tragen", "bauen", "vor|bereiten", "waschen", "spielen", "erklären", "besprechen")
EATING = ("essen", "kochen", "bestellen", "backen", "kaufen")
FAVOURS = ("helfen", "besuchen", "an|rufen", "ab|holen", "ein|laden", "zu|hören", "bringen", "erklären")
HOUSEHOLD = ("lesen", "trinken", "essen", "gießen", "füttern", "waschen", "putzen", "auf|räumen", "öffnen", "schließen")
HOUSEHOLD += ("aus|schalten", "ein|schalten", "an|rufen", "denken")
NEEDS = (
    Text("tired", "müde"),
    Text("ill", "krank"),
    Text("hungry", "hungrig"),
    Text("very lazy", "sehr faul"),
)


def be(subject: Phrase, predicate: Text, tense: str = "present") -> Clause:
    return Clause(subject, BE, tense, goal=predicate)


def subordinate(conjunction: Text, clause: Clause) -> Text:
    return Text(f"{conjunction.en} {english_clause(clause)}", german_final(clause, conjunction.de))


def because_of_duty(s: Sampler) -> Text:
    """She cannot come because she has to feed the dog."""
    subject = s.someone()
    excuses = (
        Clause(subject, verb_of_motion(s, "kommen"), modal=CAN, focus=NOT),
        Clause(subject, verb_of_motion(s, "bleiben"), tense="progressive", goal=Text("at home", "zu Hause")),
        be(subject, Text("in a hurry", "in Eile")),
        be(subject, Text("at home", "zu Hause")),
        Clause(subject, s.lexicon.verb("auf|stehen"), tense="future", goal=Text("early", "früh")),
    )
    main = s.pick(excuses)
    verbs = without_frames(s, "modal", "clock", "to", "", "lie", "stand", "hang")
    reason = s.clause("modal", subject=pronoun_for(subject), verbs=verbs, modal=s.pick((HAVE_TO, HAVE_TO, WANT_TO)), place=0)
    clause = subordinate(Text("because", "weil"), reason)
    return sentence(Text(f"{english_clause(main)} {clause.en}", f"{german_main(main)}, {clause.de}"))


def because_of_news(s: Sampler) -> Text:
    """Anna is angry because her brother has lost the key."""
    subject = s.someone()
    is_good = s.chance(0.5)
    main = be(subject, s.pick(HAPPY if is_good else UNHAPPY), s.pick(("present", "past")))
    other = s.kin_phrase(s.free_noun(s.tagged("family", "relation")), subject)
    tense = "pluperfect" if main.tense == "past" else "perfect"
    reason = s.clause(tense, subject=other, verbs=named(s, tense, GOOD_NEWS if is_good else BAD_NEWS), place=0)
    clause = subordinate(Text("because", "weil"), reason)
    return sentence(Text(f"{english_clause(main)} {clause.en}", f"{german_main(main)}, {clause.de}"))


def although(s: Sampler) -> Text:
    subject = s.someone()
    in_bad_weather = s.chance(0.4)
    verbs = named(s, "progressive", IN_THE_RAIN if in_bad_weather else WORK)
    main = s.clause("progressive", subject=subject, verbs=verbs, place=0.6 if in_bad_weather else 0.2)
    if in_bad_weather:
        weather = s.pick(WEATHER)
        concession = Text(f"although {weather.en}", f"obwohl {weather.de}")
    else:
        need = be(pronoun_for(subject), s.pick(NEEDS))
        concession = subordinate(Text("although", "obwohl"), need)
        if isinstance(subject, Name):
            return sentence(Text(f"{english_clause(main)} {concession.en}", f"{german_main(main)}, {concession.de}"))
    return sentence(joined(s, main, concession))


def if_clause(s: Sampler) -> Text:
    """If it rains, we will stay: wenn, with the verb at the end."""
    if s.chance(0.5):
        condition, where = s.pick(CONDITIONS)
        text = Text(f"if {condition.en}", f"wenn {condition.de}")
        main = s.clause("future", verbs=named(s, "future", INDOORS if where == "indoors" else OUTDOORS))
        return sentence(joined(s, main, text))
    subject = s.someone()
    need, modal_verb, negated, verbs = s.pick(
        (
            (Text("hungry", "hungrig"), CAN, False, EATING),
            (Text("busy", "beschäftigt"), CAN, True, FAVOURS),
            (Text("ill", "krank"), SHOULD, True, OUTDOORS),
            (Text("tired", "müde"), SHOULD, True, WORK),
        )
    )
    text = subordinate(Text("if", "wenn"), be(pronoun_for(subject), need))
    main = s.clause("modal", subject=subject, verbs=named(s, "modal", verbs), modal=modal_verb, place=0)
    main = replace(main, focus=NOT) if negated else main
    if isinstance(subject, Name):
        return sentence(Text(f"{english_clause(main)} {text.en}", f"{german_main(main)}, {text.de}"))
    return sentence(joined(s, main, text))


def while_clause(s: Sampler) -> Text:
    first, second = s.person(), s.someone()
    verbs = [verb for verb in without_frames(s, "progressive", "clock", "lie", "stand", "hang") if verb.aspect == "act"]
    aside = subordinate(Text("while", "während"), s.clause("progressive", subject=first, verbs=verbs, place=0.3))
    main = s.clause("progressive", subject=second, verbs=verbs, place=0.3)
    return sentence(joined(s, main, aside))


def after_clause(s: Sampler) -> Text:
    """After he had eaten, he ...: nachdem, with the pluperfect."""
    subject = s.someone()
    verbs = [verb for verb in without_frames(s, "pluperfect", "clock", "") if verb.aspect == "act"]
    before = s.clause("pluperfect", subject=pronoun_for(subject), verbs=verbs, place=0)
    after = s.clause("past", subject=subject, verbs=without_frames(s, "future", "clock"), place=0.2)
    text = subordinate(Text("after", "nachdem"), before)
    if isinstance(subject, Name):
        return sentence(Text(f"{english_clause(after)} {text.en}", f"{german_main(after)}, {text.de}"))
    return sentence(joined(s, after, text))


BEFORE = (
    ("goes to bed", "go to bed", "ins Bett", "gehen"),
    ("goes to work", "go to work", "zur Arbeit", "gehen"),
    ("leaves the house", "leave the house", "das Haus", "verlassen"),
    ("has breakfast", "have breakfast", "", "frühstücken"),
)


def before_clause(s: Sampler) -> Text:
    subject = s.someone()
    third, plain, complement, infinitive = s.pick(BEFORE)
    verb = Verb(plain, "", "", infinitive, "verlässt", "verlässt", "", "", "", "", "", (), (), ())
    verb = verb if infinitive == "verlassen" else replace(verb, du="", er="")
    clause = Clause(pronoun_for(subject), verb, goal=Text("", complement))
    main = s.clause("habit", subject=subject, verbs=named(s, "habit", HOUSEHOLD), place=0)
    main = replace(main, adverb=s.text("often"))
    text = subordinate(Text("before", "bevor"), clause)
    if isinstance(subject, Name):
        return sentence(Text(f"{english_clause(main)} {text.en}", f"{german_main(main)}, {text.de}"))
    return sentence(joined(s, main, text))


SAYINGS = (
    ("say", "said", "sagen"),
    ("think", "thought", "glauben"),
    ("hope", "hoped", "hoffen"),
    ("know", "knew", "wissen"),
)


def that_clause(s: Sampler) -> Text:
    en, past_form, de = s.pick(SAYINGS)
    speaker = s.someone()
    s.words.add(de)
    verb = Verb(en, past_form, past_form, de, "", "", "", "haben", "", "state", "", (), (), ())
    kinds = ("future",) if en == "hope" else ("perfect", "future", "progressive", "modal")
    kind = s.pick(kinds)
    subject = s.someone() if s.chance(0.5) else s.person()
    if isinstance(subject, Name) and subject == speaker:
        raise NoChoiceError
    modal = s.pick((CAN, HAVE_TO, WANT_TO, SHOULD)) if kind == "modal" else None
    content = s.clause(kind, subject=subject, verbs=without_frames(s, kind, "clock"), modal=modal)
    if kind == "future" and s.chance(0.4):
        content = replace(content, time=future_time(s, content.verb))
    text = subordinate(Text("that", "dass"), content)
    main = Clause(speaker, verb)
    return sentence(Text(f"{english_clause(main)} {text.en}", f"{german_main(main)}, {text.de}"))


def whether_clause(s: Sampler) -> Text:
    kind = s.pick(("perfect", "future", "modal"))
    subject = s.pick((phrases.HE, phrases.SHE, phrases.THEY, s.person(), s.person()))
    modal = s.pick((CAN, HAVE_TO, WANT_TO)) if kind == "modal" else None
    clause = s.clause(kind, subject=subject, modal=modal, verbs=without_frames(s, kind, "clock"))
    text = subordinate(Text("whether", "ob"), clause)
    opening = s.pick(
        (
            Text("I do not know", "ich weiß nicht"),
            Text("we do not know", "wir wissen nicht"),
            Text("do you know", "weißt du"),
            Text("nobody knows", "niemand weiß"),
        )
    )
    return sentence(Text(f"{opening.en} {text.en}", f"{opening.de}, {text.de}"), "?" if opening.en.startswith("do") else ".")


def joined(s: Sampler, main: Clause, side: Text) -> Text:
    """The subordinate clause after the main one, or before it: then it is the first element, and the verb follows."""
    if s.chance(0.5):
        return Text(f"{english_clause(main)} {side.en}", f"{german_main(main)}, {side.de}")
    return Text(f"{side.en}, {english_clause(main)}", german_main(main, f"{side.de},"))


def relative_subject(s: Sampler) -> Text:
    """The man who is reading a book is my uncle."""
    human = s.chance(0.75)
    noun = s.free_noun(s.tagged("adult", "child", "!relation") if human else s.tagged("pet", "farm"))
    plural = s.chance(0.2)
    relative = phrases.relative_pronoun(noun, plural, human)
    kind = s.pick(("progressive", "past"))
    verbs = [verb for verb in without_frames(s, kind, "clock", "to") if noun in s.tagged(*bare(verb.subjects))]
    clause = s.clause(kind, subject=as_subject(relative, noun, plural), verbs=verbs, place=0.5)
    return about(s, NounPhrase(noun, "the", plural), Text(english_clause(clause), german_final(clause)))


def relative_object(s: Sampler) -> Text:
    """The book that she is reading is exciting."""
    kind = s.pick(("past", "progressive", "perfect"))
    verbs = [verb for verb in s.verbs(kind) if verb.frame == "acc" and verb.objects]
    verb = s.pick(verbs)
    subject = s.subject(verb)
    if isinstance(subject, NounPhrase):
        raise NoChoiceError
    noun = s.noun_for(verb.de, verb.objects)
    s.words.add(verb.de)
    plural = "several" in noun.tags or (s.chance(0.2) and not noun.is_mass)
    human = bool(noun.tags & {"adult", "child", "family", "infant"})
    if noun.tags & {"family", "relation"}:
        raise NoChoiceError
    relative = phrases.relative_pronoun(noun, plural, human)
    clause = Clause(subject, verb, kind)
    de = f"{relative.german('acc')} {german_final(clause)}"
    return about(s, NounPhrase(noun, "the", plural), Text(f"{'whom' if human else 'that'} {english_clause(clause)}", de))


def about(s: Sampler, head: NounPhrase, relative: Text) -> Text:
    """Something is said about the noun with the relative clause: an adjective, or who it is."""
    full = replace(head, suffix=Text(f" {relative.en}", f", {relative.de},"))
    if head.noun.tags & {"adult"} and s.chance(0.4) and not head.plural and head.noun.gender == "m":
        kin = s.kin_phrase(s.free_noun([noun for noun in s.tagged("family") if noun.gender == "m"]))
        if kin.plural:
            raise NoChoiceError
        return sentence(statement(Clause(full, BE, goal=Text(kin.english(), kin.german("nom")))))
    adjective = s.predicate_for(head.noun)
    degree = s.degree_for(adjective)
    return sentence(statement(be(full, Text(f"{degree.en} {adjective.en}", f"{degree.de} {adjective.de}"))))


# What things are like


def quality(s: Sampler) -> Text:
    """My uncle's car is very old: the genitive follows in German."""
    noun = s.free_noun(
        s.tagged("vehicle", "device", "clothing", "instrument", "living", "thing", "pet", "furniture", "text", "idea", "!Stadt", "!Dorf", "!Insel")
    )
    plural = ("several" in noun.tags or s.chance(0.15)) and not noun.is_mass
    if s.chance(0.3):
        phrase = NounPhrase(noun, f"{s.name().en}'s", plural)
    elif s.chance(0.6):
        owner = s.person_phrase(s.free_noun(s.tagged("adult", "child", "family")))
        determiner = owner.determiner if owner.determiner not in ("two", "three", "four") else "the"
        phrase = NounPhrase(noun, "the", plural, owner=replace(owner, determiner=determiner))
    else:
        phrase = NounPhrase(noun, s.pick(("the", "this", "my", "our")), plural)
    adjective = s.predicate_for(noun, first=phrase.adjective)
    degree = s.degree_for(adjective)
    tense = s.pick(("present", "present", "past"))
    return sentence(statement(be(phrase, Text(f"{degree.en} {adjective.en}", f"{degree.de} {adjective.de}"), tense)))


def description(s: Sampler) -> Text:
    """The old church is beautiful; any noun with two of its adjectives."""
    noun = s.free_noun(noun for noun in s.lexicon.nouns if "family" not in noun.tags)
    plural = ("several" in noun.tags or s.chance(0.25)) and not noun.is_mass
    phrase = replace(NounPhrase(noun, s.pick(("the", "the", "this")), plural), adjective=s.adjective_for(noun))
    adjective = s.predicate_for(noun, first=phrase.adjective)
    degree = s.degree_for(adjective)
    tense = s.pick(("present", "present", "past"))
    return sentence(statement(be(phrase, Text(f"{degree.en} {adjective.en}", f"{degree.de} {adjective.de}"), tense)))


def comparison(s: Sampler) -> Text:
    """Older than and as old as; both nouns must be able to be so."""
    noun = s.free_noun(noun for noun in s.lexicon.nouns if not noun.tags & {"family"} and not noun.is_mass)
    adjective = s.predicate_for(noun, graded=True)
    if adjective.de in UNGRADED:
        raise NoChoiceError
    same_kind = [other for other in adjective.nouns if s.is_like(noun, other)]
    other = s.noun_for(adjective.de, same_kind)
    plural = "several" in noun.tags or s.chance(0.2)
    other_plural = "several" in other.tags or plural
    mine, yours = ("my", "your") if noun.tags & OWNED and other.tags & OWNED and not plural else ("the", "the")
    first = NounPhrase(noun, s.pick(("the", "this", mine)), plural)
    second = NounPhrase(other, s.pick(("the", yours)), other_plural)
    if s.chance(0.7):
        comparative = Text(english.comparative(adjective), adjective.de_comparative)
        predicate = Text(f"{comparative.en} than {second.english()}", f"{comparative.de} als {second.german('nom')}")
    else:
        negative = s.pick((Text("", ""), Text("not ", "nicht ")))
        predicate = Text(
            f"{negative.en}as {adjective.en} as {second.english()}",
            f"{negative.de}so {adjective.de} wie {second.german('nom')}",
        )
    return sentence(statement(be(first, predicate)))


def superlative(s: Sampler) -> Text:
    """The oldest church in the town: die älteste Kirche der Stadt."""
    noun = s.free_noun(s.tagged("building", "sight", "structure", "eating", "=Straße", "=Garten", "=Park", "!Haus", "!Garten", "=Turm", "!Küche"))
    adjective = s.adjective_for(noun, graded=True)
    place = NounPhrase(s.free_noun(s.tagged("=Stadt", "=Dorf", "=Insel")), s.pick(("the", "our", "this")))
    thing = NounPhrase(noun, "the", adjective=adjective, degree="superlative")
    where = Text(f"in {place.english()}", place.german("gen")) if place.noun.de != "Insel" else Text(f"on {place.english()}", place.german("gen"))
    text = Text(f"{thing.english()} {where.en}", f"{thing.german('acc')} {where.de}")
    nominative = Text(text.en, f"{thing.german('nom')} {where.de}")
    if s.chance(0.5):
        return sentence(Text(f"this is {nominative.en}", f"das ist {nominative.de}"))
    verb = s.lexicon.verb("fotografieren" if s.chance(0.5) else "besuchen")
    if noun not in verb.objects or not s.accept(verb, noun):
        return sentence(Text(f"that was {nominative.en}", f"das war {nominative.de}"))
    clause = Clause(s.someone(), verb, s.pick(("past", "future")), goal=text)
    time = past_time(s, verb) if clause.tense == "past" else s.text("future")
    return sentence(statement(replace(clause, time=time), time))


def profession(s: Sampler) -> Text:
    """My sister is a doctor: meine Schwester ist Ärztin, without an article."""
    person = s.kin_phrase(s.free_noun(s.tagged("family"))) if s.chance(0.6) else s.name()
    if person.plural:
        raise NoChoiceError
    job_de, places = s.pick(WORKPLACES)
    job = s.lexicon.noun(job_de)
    s.words.add(job_de)
    german_job = job.feminine if person.possessive == "her" else job.de
    place = s.location(s.noun_for("arbeiten", s.tagged(*places.split())))
    en, de = f"{person.english()} {{}} {NounPhrase(job, 'a').english()}", f"{person.german('nom')} {{}} {german_job}"
    if s.chance(0.35):
        wish, goal = en.format("would like to become"), de.format("möchte")
        return sentence(Text(f"{wish} and work {place.en}", f"{goal} werden und {place.de} arbeiten"))
    return sentence(Text(f"{en.format('is')} and works {place.en}", f"{de.format('ist')} und arbeitet {place.de}"))


WORKPLACES = (
    ("Arzt", "=Krankenhaus =Dorf =Universität =Stadt"),
    ("Lehrer", "=Schule =Dorf =Stadt"),
    ("Koch", "=Restaurant =Hotel =Krankenhaus =Schloss =Schule"),
    ("Bäcker", "=Bäckerei =Dorf =Supermarkt"),
    ("Ingenieur", "=Fabrik =Büro =Flughafen =Hafen =Universität"),
    ("Journalist", "=Büro =Stadt"),
    ("Musiker", "=Theater =Kirche =Hotel =Schule"),
    ("Anwalt", "=Büro =Stadt =Dorf"),
    ("Sänger", "=Theater =Kirche"),
    ("Bauer", "=Dorf =Insel"),
)


def pleasing(s: Sampler) -> Text:
    """She likes the picture: das Bild gefällt ihr."""
    noun = s.noun_for("gefallen", s.tagged("clothing", "room", "art", "text", "sight", "vehicle", "furniture", "visit", "idea"))
    s.words.add("gefallen")
    thing = s.thing(noun, None, definite=True)
    liker = s.pick((*phrases.PERSONAL, s.person(), s.person(("family",))))
    if isinstance(liker, NounPhrase) and not liker.is_definite:
        raise NoChoiceError
    negative = s.chance(0.4)
    auxiliary = english.verb_group(LIKE, "present", None, liker.person, liker.plural, negative)
    en = f"{liker.english(subject=True)} {auxiliary.auxiliary} {'not' if negative else ''} {auxiliary.main} {thing.english()}"
    finite = "gefallen" if thing.plural else "gefällt"
    degree = "nicht" if negative else s.pick(("", "sehr"))
    de = f"{thing.german('nom')} {finite} {liker.german('dat')} {degree}"
    return sentence(Text(en + (" very much" if degree == "sehr" else ""), de))


LIKE = Verb("like", "liked", "liked", "gefallen", "", "gefällt", "", "haben", "", "", "", (), (), ())


def price(s: Sampler) -> Text:
    noun = s.noun_for("kosten", s.tagged("food", "drink", "clothing", "text", "thing", "instrument", "furniture", "!Brief", "!E-Mail", "!Bericht", "!Gedicht", "!Geschichte", "!Rechnung", "!Artikel", "!Rezept"))
    s.words.add("kosten")
    thing = NounPhrase(noun, s.pick(("the", "this")), plural="several" in noun.tags)
    thing = s.with_adjective(thing, 0.6)
    is_small = bool(noun.tags & {"food", "drink", "text", "small"}) and noun.de != "Ring"
    amount = s.pick(SMALL_AMOUNTS if is_small else AMOUNTS)
    verb = Verb("cost", "cost", "cost", "kosten", "", "", "gekostet", "haben", "goal", "state", "", (), (), ())
    clause = Clause(thing, verb, s.pick(("present", "present", "past")), goal=Text(f"{amount.en} euros", f"{amount.de} Euro"))
    if s.chance(0.3):
        return sentence(Text(f"I think that {english_clause(clause)}", f"ich glaube, {german_final(clause, 'dass')}"))
    return sentence(statement(clause))


SMALL_AMOUNTS = (
    Text("two", "zwei"),
    Text("three", "drei"),
    Text("four", "vier"),
    Text("five", "fünf"),
    Text("seven", "sieben"),
    Text("nine", "neun"),
)
AMOUNTS = (
    Text("twelve", "zwölf"),
    Text("fifteen", "fünfzehn"),
    Text("twenty", "zwanzig"),
    Text("twenty-five", "fünfundzwanzig"),
    Text("forty", "vierzig"),
    Text("sixty", "sechzig"),
    Text("ninety-nine", "neunundneunzig"),
    Text("a hundred", "hundert"),
)


# Infinitives, passives, coordination


def purpose(s: Sampler) -> Text:
    """She goes to the market to buy fruit: um ... zu."""
    go = s.lexicon.verb("gehen")
    verbs = [verb for verb in without_frames(s, "future", "clock", "to") if verb.de not in AIMLESS and set(verb.places) & set(go.places)]
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


AIMLESS = ("sitzen", "laufen", "lachen", "weinen", "spazieren |gehen", "warten", "singen", "denken")
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
    clause = s.clause("future", subject=subject, verbs=without_frames(s, "future", "clock", "to", ""), place=0.2)
    if clause.verb.aspect != "act" and en in ("decide", "forget"):
        raise NoChoiceError
    main = Clause(subject, verb, "past")
    return sentence(Text(f"{english_clause(main)} to {english_infinitive(clause)}", f"{german_main(main)}, {german_infinitive(clause)}"))


def passive(s: Sampler) -> Text:
    verb = s.pick([s.lexicon.verb(name) for name in PASSIVE])
    noun = s.noun_for(verb.de, verb.objects)
    s.words.add(verb.de)
    thing = s.thing(noun, None, definite=True)
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


PASSIVE = ("reparieren", "bauen", "verkaufen", "übersetzen", "putzen", "waschen", "auf|räumen", "öffnen", "schließen", "pflanzen")


def pronoun_back(s: Sampler) -> Text:
    """She buys the lamp and gives it to him: the pronoun takes the gender of the noun, die Lampe ... sie."""
    first_de, second_de = s.pick(SEQUENCES)
    first, second = s.lexicon.verb(first_de), s.lexicon.verb(second_de)
    both = [noun for noun in first.objects if noun in second.objects and not noun.tags & {"adult", "child", "family", "infant"}]
    noun = s.noun_for(first.de, [noun for noun in both if s.accept(second, noun)])
    s.pairs.add((second.de, noun.de))
    s.words.update((first.de, second.de))
    subject = s.someone()
    thing = s.thing(noun, subject)
    if not thing.determiner or thing.determiner in ("some", "many"):
        thing = replace(thing, determiner="the")
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


def contrast(s: Sampler) -> Text:
    """Two clauses with und or aber, which leave the order of words as it is."""
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
    return sentence(Text(f"{english_clause(one)}{comma} {word.en} {english_clause(two)}", f"{german_main(one)}{comma} {word.de} {german_main(two)}"))


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
    clause = replace(clause, modal=s.pick((CAN, WANT_TO, WOULD_LIKE, HAVE_TO)), time=s.text("near") if kind == "want" else None)
    return sentence(perhaps_fronted(s, clause))


# Helpers


def named(s: Sampler, kind: str, names: tuple[str, ...]) -> list[Verb]:
    return [verb for verb in s.verbs(kind) if verb.de in names]


def without_frames(s: Sampler, kind: str, *frames: str) -> list[Verb]:
    return [verb for verb in s.verbs(kind) if verb.frame not in frames]


def bare(spec: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(item for item in spec if item != "pronoun")


def past_time(s: Sampler, verb: Verb) -> Text:
    """Daily things lie a few days back, houses are built in years."""
    return s.text("past" if not verb.habit else "recent")


def future_time(s: Sampler, verb: Verb) -> Text:
    return s.text("near" if verb.habit or verb.frame == "dat+acc" else "future")


def time_for(s: Sampler, kind: str, verb: Verb) -> Text:
    if kind == "past":
        return past_time(s, verb)
    return s.text("now") if kind == "progressive" else future_time(s, verb)


def pronoun_for(subject: Phrase) -> Phrase:
    """How a subject is called when it is named again."""
    if isinstance(subject, Name):
        return phrases.HE if subject.possessive == "his" else phrases.SHE
    return subject


def as_subject(relative: phrases.Pronoun, noun: Noun, plural: bool) -> phrases.Pronoun:
    return replace(relative, possessive=NounPhrase(noun, "the", plural).possessive)


def verb_of_motion(s: Sampler, de: str) -> Verb:
    en = {"kommen": "come", "bleiben": "stay"}[de]
    s.words.add(de)
    return Verb(en, "", "", de, "", "", "", "sein", "", "act", "", (), (), ())


TEMPLATES: tuple[tuple[Template, int], ...] = (
    (habit, 10),
    (state, 6),
    (ongoing, 9),
    (past, 13),
    (duration, 2),
    (perfect, 4),
    (modal, 9),
    (future, 6),
    (negation, 8),
    (there_is, 4),
    (position, 4),
    (yes_no, 7),
    (polite_question, 2),
    (wh_question, 5),
    (who_question, 2),
    (request, 3),
    (because_of_duty, 3),
    (because_of_news, 3),
    (although, 3),
    (if_clause, 4),
    (while_clause, 2),
    (after_clause, 3),
    (before_clause, 3),
    (that_clause, 5),
    (whether_clause, 3),
    (relative_subject, 4),
    (relative_object, 5),
    (quality, 6),
    (description, 4),
    (comparison, 4),
    (superlative, 3),
    (profession, 2),
    (pleasing, 3),
    (price, 2),
    (purpose, 4),
    (attempt, 4),
    (passive, 4),
    (pronoun_back, 3),
    (contrast, 3),
    (play_instrument, 2),
)
