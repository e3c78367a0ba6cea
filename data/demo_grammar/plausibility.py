"""Which words go together, beyond what the tables say: a few lists that keep the sentences sensible."""


def words(text: str) -> tuple[str, ...]:
    """A tuple of words from a text."""
    return tuple(text.split())


# Verbs that the templates combine with nouns of their own choice.
HEADS_WITH_ANY_NOUN = ("gefallen", "kosten", "spielen")
# Tags of nouns that stand alone (one kitchen, one exam), and of nouns that belong to somebody.
ALONE = frozenset(words("room event living town outside one"))
ANIMATE = frozenset(words("adult child family infant animal"))
OWNED = frozenset(
    words("pet farm clothing vehicle furniture device instrument thing post room living outside family toy idea event")
)
OPPOSITES = tuple(
    frozenset(group.split())
    for group in (
        "klein groß hoch lang kurz breit schmal dick dünn",
        "warm kalt heiß",
        "alt neu jung modern frisch",
        "gut schlecht lecker",
        "schön hässlich",
        "teuer billig",
        "interessant langweilig spannend",
        "schwierig einfach",
        "rot blau grün schwarz weiß gelb braun grau dunkel hell",
        "sauber schmutzig",
        "leer voll",
        "schnell langsam",
        "ruhig laut",
        "reich arm",
        "glücklich traurig wütend",
        "faul fleißig",
        "freundlich wütend gefährlich",
        "deutsch englisch französisch",
        "klug dumm",
    )
)
# A new lawyer, a French tourist - but not: the lawyer is new.
ATTRIBUTES_OF_PEOPLE = ("neu", "deutsch", "englisch", "französisch")
# What something can be too much of, and what it cannot be more or less.
EXCESSIVE = words(
    "klein groß lang kurz teuer schwer langsam kalt warm heiß laut dünn dick breit schmal tief hoch alt "
    "jung faul langweilig schwierig einfach süß dunkel hell gefährlich müde neugierig"
)
UNGRADED = words("rot blau grün schwarz weiß gelb braun grau kaputt deutsch englisch französisch leer voll rund")
CLOTHES = ("tragen", "an|ziehen", "aus|ziehen")
# Adjectives for the result of the verb, or for what it makes impossible.
IMPLAUSIBLE = {
    "kochen": ("kalt", "heiß", "warm", "lecker"),
    "backen": ("kalt", "warm", "frisch"),
    "schneiden": ("heiß",),
    "schreiben": ("neu", "alt", "berühmt"),
    "bauen": ("alt", "schmutzig", "leer", "dunkel", "berühmt", "billig", "kaputt", "hässlich"),
    "waschen": ("sauber",),
    "putzen": ("sauber",),
    "auf|räumen": ("sauber",),
    "pflanzen": ("alt", "frisch", "süß", "lecker"),
    "aus|schalten": ("kaputt",),
    "ein|schalten": ("kaputt",),
    "öffnen": ("kaputt",),
    "trinken": ("schmutzig",),
    "essen": ("alt",),
}
# Nobody has to, may or should do these.
UNPLANNED = words("blühen sitzen lachen weinen träumen denken ein|schlafen auf|wachen riechen bellen finden")
SEVERAL = ("two", "three", "many", "some", "four")
NOT_FOR_CHILDREN = ("Wein", "Bier", "Kaffee")
POSSESSIVES = ("my", "your", "our", "his", "her", "their")
COMPARABLE = tuple(
    frozenset(kinds.split())
    for kinds in (
        "adult child",
        "animal",
        "food drink",
        "text",
        "furniture",
        "device",
        "vehicle",
        "clothing",
        "instrument",
        "building structure",
        "room",
        "land water",
        "visit",
        "idea",
        "art",
        "event",
    )
)
