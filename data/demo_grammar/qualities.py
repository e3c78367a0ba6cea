"""What things are like, whose they are, what they cost, and who likes them."""

from dataclasses import replace

from demo_grammar import english, phrases
from demo_grammar.clauses import Clause, english_clause, german_final
from demo_grammar.lexicon import Text, Verb
from demo_grammar.phrases import NounPhrase
from demo_grammar.plausibility import SEVERAL, UNGRADED
from demo_grammar.sampler import NoChoiceError, Sampler
from demo_grammar.telling import be, past_time, sentence, statement


def quality(s: Sampler) -> Text:
    """My uncle's car is very old: the genitive follows in German."""
    noun = s.free_noun(
        s.tagged(
            "vehicle",
            "device",
            "clothing",
            "instrument",
            "living",
            "thing",
            "pet",
            "furniture",
            "text",
            "idea",
            "!Stadt",
            "!Dorf",
            "!Insel",
            "!ride",
            "!air",
        )
    )
    plural = ("several" in noun.tags or s.chance(0.15)) and not noun.is_mass
    if s.chance(0.3):
        phrase = NounPhrase(noun, f"{s.name().en}'s", plural)
    elif s.chance(0.6):
        owner = s.person_phrase(s.free_noun(s.tagged("adult", "child", "family")))
        determiner = owner.determiner
        if determiner in (*SEVERAL, "a") or determiner.endswith("'s"):
            determiner = "my" if "family" in owner.noun.tags else "the"
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
    """Older than and as old as; both nouns must be able to have the adjective."""
    noun = s.free_noun(noun for noun in s.lexicon.nouns if not noun.tags & {"family"} and not noun.is_mass)
    adjective = s.predicate_for(noun, graded=True)
    if adjective.de in UNGRADED:
        raise NoChoiceError
    same_kind = [other for other in adjective.nouns if s.is_like(noun, other)]
    other = s.noun_for(adjective.de, same_kind)
    plural = "several" in noun.tags or s.chance(0.2)
    other_plural = "several" in other.tags or plural
    mine, yours = ("my", "your") if s.is_owned(noun) and s.is_owned(other) and not plural else ("the", "the")
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
    noun = s.free_noun(
        s.tagged(
            "building",
            "sight",
            "structure",
            "eating",
            "=Straße",
            "=Garten",
            "=Park",
            "!Haus",
            "!Garten",
            "=Turm",
            "!Küche",
        )
    )
    adjective = s.adjective_for(noun, graded=True)
    places = ("=Stadt", "=Insel") if noun.de in IN_BIG_PLACES else ("=Stadt", "=Dorf", "=Insel")
    place = NounPhrase(s.free_noun(s.tagged(*places)), s.pick(("the", "our", "this")))
    thing = NounPhrase(noun, "the", adjective=adjective, degree="superlative")
    where = (
        Text(f"in {place.english()}", place.german("gen"))
        if place.noun.de != "Insel"
        else Text(f"on {place.english()}", place.german("gen"))
    )
    text = Text(f"{thing.english()} {where.en}", f"{thing.german('acc')} {where.de}")
    nominative = Text(text.en, f"{thing.german('nom')} {where.de}")
    if s.chance(0.5):
        return sentence(Text(f"this is {nominative.en}", f"das ist {nominative.de}"))
    verb = s.lexicon.verb("fotografieren" if s.chance(0.5) else "besuchen")
    if noun not in verb.objects or not s.accept(verb, noun):
        return sentence(Text(f"that was {nominative.en}", f"das war {nominative.de}"))
    s.pairs.add((verb.de, noun.de))
    clause = Clause(s.someone(), verb, s.pick(("past", "future")), goal=text)
    time = past_time(s, verb) if clause.tense == "past" else s.text("future")
    return sentence(statement(replace(clause, time=time), time))


IN_BIG_PLACES = ("Universität", "Flughafen", "Hafen", "Krankenhaus", "Bahnhof", "Zoo", "Theater", "Kino", "Museum")


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
    noun = s.noun_for(
        "gefallen",
        s.tagged(
            "clothing", "room", "art", "text", "sight", "vehicle", "furniture", "visit", "idea", "!Fehler", "!Problem"
        ),
    )
    s.words.add("gefallen")
    thing = s.thing(noun, None, definite=True)
    liker = s.pick((*phrases.PERSONAL, s.person(), s.person(("family",))))
    if isinstance(liker, NounPhrase) and not liker.is_definite:
        raise NoChoiceError
    negative = s.chance(0.4)
    auxiliary = english.verb_group(LIKE, "present", None, liker.person, liker.plural, negative)
    do_not = f"{auxiliary.auxiliary} not" if negative else ""
    en = f"{liker.english(subject=True)} {do_not} {auxiliary.main} {thing.english()}"
    finite = "gefallen" if thing.plural else "gefällt"
    degree = "nicht" if negative else s.pick(("", "sehr"))
    de = f"{thing.german('nom')} {finite} {liker.german('dat')} {degree}"
    return sentence(Text(en + (" very much" if degree == "sehr" else ""), de))


LIKE = Verb("like", "liked", "liked", "gefallen", "", "gefällt", "", "haben", "", "", "", (), (), ())


def price(s: Sampler) -> Text:
    """The hat costs twelve euros."""
    noun = s.noun_for(
        "kosten",
        s.tagged(
            "food",
            "drink",
            "clothing",
            "text",
            "thing",
            "instrument",
            "furniture",
            "!Brief",
            "!E-Mail",
            "!Bericht",
            "!Gedicht",
            "!Geschichte",
            "!Rechnung",
            "!Artikel",
            "!Rezept",
        ),
    )
    s.words.add("kosten")
    thing = NounPhrase(noun, s.pick(("the", "this")), plural="several" in noun.tags)
    thing = s.with_adjective(thing, 0.6)
    is_small = bool(noun.tags & {"food", "drink", "text", "small"}) and noun.de != "Ring"
    amount = s.pick(SMALL_AMOUNTS if is_small else AMOUNTS)
    verb = Verb("cost", "cost", "cost", "kosten", "", "", "gekostet", "haben", "goal", "state", "", (), (), ())
    # "The shoes cost" could be either tense.
    tense = "present" if thing.plural else s.pick(("present", "present", "past"))
    clause = Clause(thing, verb, tense, goal=Text(f"{amount.en} euros", f"{amount.de} Euro"))
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
