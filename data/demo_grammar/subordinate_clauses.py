"""Sentences with a subordinate clause, in which the German verb stands at the end."""

from dataclasses import replace

from demo_grammar import phrases
from demo_grammar.clauses import NOT, Clause, english_clause, german_main
from demo_grammar.english import CAN, HAVE_TO, SHOULD, WANT_TO
from demo_grammar.lexicon import Text, Verb
from demo_grammar.phrases import Name
from demo_grammar.sampler import NoChoiceError, Sampler
from demo_grammar.telling import be, future_time, joined, named, pronoun_for, sentence, subordinate, without_frames


def verbs(text: str) -> tuple[str, ...]:
    """German verbs, set off by spaces; an underscore stands for a space inside a verb."""
    return tuple(verb.replace("_", " ") for verb in text.split())


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
GOOD_NEWS = verbs(
    "gewinnen finden besuchen an|rufen ein|laden helfen bringen schicken geben leihen kaufen reparieren "
    "zeigen auf|räumen backen ab|holen"
)
BAD_NEWS = verbs("verlieren zerbrechen vergessen verkaufen weg|werfen essen trinken verstecken")
HAPPY = (Text("happy", "glücklich"), Text("surprised", "überrascht"), Text("very proud", "sehr stolz"))
UNHAPPY = (Text("angry", "wütend"), Text("sad", "traurig"), Text("surprised", "überrascht"))
OUTDOORS = verbs(
    "schwimmen spazieren_|gehen laufen gießen pflücken füttern gehen fahren pflanzen reparieren waschen "
    "fotografieren beobachten besuchen zeichnen"
)
IN_THE_RAIN = verbs("spazieren_|gehen laufen gehen fahren reparieren füttern fotografieren waschen")
INDOORS = verbs(
    "lesen sehen kochen backen auf|räumen putzen schreiben besuchen reparieren lernen an|rufen malen "
    "trinken mit|nehmen schließen benutzen"
)
WORK = verbs(
    "lesen schreiben helfen reparieren putzen auf|räumen kochen lernen übersetzen arbeiten sich_kümmern "
    "korrigieren tragen bauen vor|bereiten waschen spielen erklären besprechen"
)
EATING = verbs("essen kochen bestellen backen kaufen")
FAVOURS = verbs("helfen besuchen an|rufen ab|holen ein|laden zu|hören bringen erklären")
ERRANDS = verbs(
    "helfen besuchen ab|holen an|rufen putzen auf|räumen reparieren vor|bereiten lernen schreiben lesen "
    "korrigieren füttern kaufen kochen backen bringen zurück|bringen übersetzen sich_kümmern waschen "
    "treffen bezahlen gießen verkaufen planen"
)
HOUSEHOLD = verbs(
    "lesen trinken essen gießen füttern waschen putzen auf|räumen öffnen schließen aus|schalten "
    "ein|schalten an|rufen denken"
)
NEEDS = (
    Text("tired", "müde"),
    Text("ill", "krank"),
    Text("hungry", "hungrig"),
    Text("very lazy", "sehr faul"),
)
BEFORE = (
    ("go to bed", "ins Bett", "gehen"),
    ("go to work", "zur Arbeit", "gehen"),
    ("leave the house", "das Haus", "verlassen"),
    ("have breakfast", "", "frühstücken"),
)
SAYINGS = (
    ("say", "said", "sagen"),
    ("think", "thought", "glauben"),
    ("hope", "hoped", "hoffen"),
    ("know", "knew", "wissen"),
)


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
    reason = s.clause(
        "modal",
        subject=pronoun_for(subject),
        verbs=named(s, "modal", ERRANDS),
        modal=s.pick((HAVE_TO, HAVE_TO, WANT_TO)),
        place=0,
    )
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
    """Although it is raining, she is going for a walk."""
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
    """While he is singing, she is reading."""
    first, second = s.person(), s.someone()
    verbs = [verb for verb in without_frames(s, "progressive", "clock", "lie", "stand", "hang") if verb.aspect == "act"]
    aside = subordinate(Text("while", "während"), s.clause("progressive", subject=first, verbs=verbs, place=0.3))
    main = s.clause("progressive", subject=second, verbs=verbs, place=0.3)
    return sentence(joined(s, main, aside))


def after_clause(s: Sampler) -> Text:
    """After he had eaten, he ...: nachdem, with the pluperfect."""
    subject = s.someone()
    verbs = [verb for verb in without_frames(s, "pluperfect", "clock", "") if verb.aspect == "act"]
    verbs = [verb for verb in verbs if verb.de not in ("tragen", "halten")]
    before = s.clause("pluperfect", subject=pronoun_for(subject), verbs=verbs, place=0)
    after = s.clause("past", subject=subject, verbs=without_frames(s, "future", "clock"), place=0.2)
    text = subordinate(Text("after", "nachdem"), before)
    if isinstance(subject, Name):
        return sentence(Text(f"{english_clause(after)} {text.en}", f"{german_main(after)}, {text.de}"))
    return sentence(joined(s, after, text))


def before_clause(s: Sampler) -> Text:
    """Before she goes to bed, she reads."""
    subject = s.someone()
    plain, complement, infinitive = s.pick(BEFORE)
    verb = Verb(plain, "", "", infinitive, "verlässt", "verlässt", "", "", "", "", "", (), (), ())
    verb = verb if infinitive == "verlassen" else replace(verb, du="", er="")
    clause = Clause(pronoun_for(subject), verb, goal=Text("", complement))
    main = s.clause("habit", subject=subject, verbs=named(s, "habit", HOUSEHOLD), place=0)
    main = replace(main, adverb=s.text("often"))
    text = subordinate(Text("before", "bevor"), clause)
    if isinstance(subject, Name):
        return sentence(Text(f"{english_clause(main)} {text.en}", f"{german_main(main)}, {text.de}"))
    return sentence(joined(s, main, text))


def that_clause(s: Sampler) -> Text:
    """She hopes that he will come."""
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
    """I do not know whether he has come."""
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
    return sentence(
        Text(f"{opening.en} {text.en}", f"{opening.de}, {text.de}"), "?" if opening.en.startswith("do") else "."
    )


def verb_of_motion(s: Sampler, de: str) -> Verb:
    """Come or stay, which are in none of the tables."""
    en = {"kommen": "come", "bleiben": "stay"}[de]
    s.words.add(de)
    return Verb(en, "", "", de, "", "", "", "sein", "", "act", "", (), (), ())
