"""The demo corpus: reproducible, without leaks, and inflected as German is."""

import importlib.util
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.paths import ROOT

CORPUS = ROOT / "data"
SPLITS = {"train": 6000, "prefs": 2000, "dev": 300, "test": 1000}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_demo_corpus", CORPUS / "make_demo_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load_script()

from demo_grammar import clauses, english, german, lexicon, phrases  # noqa: E402 - found by the script
from demo_grammar.clauses import Clause  # noqa: E402
from demo_grammar.lexicon import Noun, Text  # noqa: E402
from demo_grammar.phrases import NounPhrase  # noqa: E402

LEXICON = lexicon.load()


@pytest.fixture(scope="module")
def corpus() -> Any:
    return script.build_corpus()


def lines(name: str) -> list[str]:
    text = (CORPUS / "demo" / name).read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert "\r" not in text
    return text[:-1].split("\n")


def noun(german_word: str) -> Noun:
    return LEXICON.noun(german_word)


def phrase(determiner: str, adjective: str, word: str, plural: bool = False) -> NounPhrase:
    entry = next((item for item in LEXICON.adjectives if item.en == adjective), None)
    return NounPhrase(noun(word), determiner, plural, entry)


# The files


def test_regeneration_is_byte_identical(corpus: Any, tmp_path: Path) -> None:
    script.write_corpus(corpus, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (CORPUS / "demo").iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (CORPUS / "demo" / name).read_bytes(), name


@pytest.mark.parametrize("split", SPLITS)
def test_both_sides_have_the_same_number_of_lines(split: str) -> None:
    assert len(lines(f"{split}.en")) == len(lines(f"{split}.de")) == SPLITS[split]


@pytest.mark.parametrize("side", ["en", "de"])
def test_no_sentence_occurs_twice(side: str) -> None:
    sentences = [
        " ".join(re.findall(r"[\w'-]+", line.casefold())) for split in SPLITS for line in lines(f"{split}.{side}")
    ]
    assert [line for line, count in Counter(sentences).items() if count > 1] == []


@pytest.mark.parametrize("split", SPLITS)
def test_sentences_are_tidy(split: str) -> None:
    for side in ("en", "de"):
        for line in lines(f"{split}.{side}"):
            assert re.fullmatch(r"[A-ZÄÖÜ][A-Za-zÄÖÜäöüßé' ,-]*[a-zßüöé][.?!]", line), line
            assert not re.search("  | ,|,,", line), line
            assert len(line.split()) <= script.MAX_WORDS


def test_readme_quotes_the_statistics(corpus: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script.print_statistics(corpus)
    assert capsys.readouterr().out in (CORPUS / "README.md").read_text(encoding="utf-8")
    written = json.loads((CORPUS / "demo" / "statistics.json").read_text(encoding="utf-8"))
    assert {name: split["pairs"] for name, split in written["splits"].items()} == SPLITS


def test_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in (CORPUS / "demo").iterdir()) < 1_500_000


# What is held out


def test_word_pairs_of_dev_and_test_never_occur_in_train_or_prefs(corpus: Any) -> None:
    pairs = {name: set().union(*(pair.pairs for pair in split)) for name, split in corpus.splits.items()}
    seen, unseen = pairs["train"] | pairs["prefs"], pairs["dev"] | pairs["test"]
    assert not seen & unseen
    assert unseen <= corpus.held_out
    assert all(pair.pairs for name in ("dev", "test") for pair in corpus.splits[name])


def test_held_out_pairs_are_visible_in_the_text(corpus: Any) -> None:
    """Checked without the grammar's own records, for adjectives directly before their nouns."""
    nouns = {noun.en: noun.de for noun in LEXICON.nouns} | {noun.en_plural: noun.de for noun in LEXICON.nouns}
    adjectives = {adjective.en: adjective.de for adjective in LEXICON.adjectives}

    def attributes(split: str) -> set[tuple[str, str]]:
        words = [re.findall(r"[\w'-]+", line) for line in lines(f"{split}.en")]
        neighbours = [pair for line in words for pair in pairwise(line)]
        return {(adjectives[a], nouns[n]) for a, n in neighbours if a in adjectives and n in nouns}

    unseen = attributes("dev") | attributes("test")
    assert len(unseen) > 100
    assert not unseen & (attributes("train") | attributes("prefs"))


def test_every_word_of_dev_and_test_occurs_in_train(corpus: Any) -> None:
    counts = Counter(word for pair in corpus.splits["train"] for word in pair.words)
    for name in ("dev", "test"):
        rare = {word for pair in corpus.splits[name] for word in pair.words if counts[word] < script.MIN_TRAIN_COUNT}
        assert not rare


def test_check_refuses_a_leak(corpus: Any) -> None:
    leaked = script.Corpus({**corpus.splits, "train": corpus.splits["test"]}, corpus.held_out)
    with pytest.raises(AssertionError, match="train"):
        script.check(leaked)


# German phrases


@pytest.mark.parametrize(
    ("words", "case", "expected"),
    [
        (("the", "old", "Mann"), "dat", "dem alten Mann"),
        (("a", "new", "Auto"), "acc", "ein neues Auto"),
        (("a", "big", "Hund"), "acc", "einen großen Hund"),
        (("a", "big", "Hund"), "nom", "ein großer Hund"),
        (("the", "little", "Kind", True), "dat", "den kleinen Kindern"),
        (("the", "", "Haus"), "gen", "des Hauses"),
        (("my", "old", "Frau"), "gen", "meiner alten Frau"),
        (("", "fresh", "Brot"), "nom", "frisches Brot"),
        (("", "strong", "Kaffee"), "dat", "starkem Kaffee"),
        (("", "strong", "Kaffee"), "gen", "starken Kaffees"),
        (("many", "old", "Buch", True), "acc", "viele alte Bücher"),
        (("two", "old", "Buch", True), "dat", "zwei alten Büchern"),
        (("this", "", "Student"), "acc", "diesen Studenten"),
        (("the", "", "Nachbar"), "dat", "dem Nachbarn"),
        (("no", "good", "Idee"), "acc", "keine gute Idee"),
        (("our", "expensive", "Wohnung"), "dat", "unserer teuren Wohnung"),
        (("a", "high", "Turm"), "nom", "ein hoher Turm"),
        (("the", "dark", "Keller"), "dat", "dem dunklen Keller"),
        (("the", "", "Auto", True), "dat", "den Autos"),
        (("Anna's", "old", "Onkel"), "acc", "Annas alten Onkel"),
    ],
)
def test_noun_phrases(words: tuple[Any, ...], case: str, expected: str) -> None:
    assert phrase(*words).german(case) == expected


@pytest.mark.parametrize(
    ("preposition", "case", "words", "expected"),
    [
        ("mit", "dat", ("the", "old", "Mann"), "mit dem alten Mann"),
        ("in", "dat", ("the", "", "Garten"), "im Garten"),
        ("in", "acc", ("the", "", "Garten"), "in den Garten"),
        ("in", "acc", ("the", "", "Haus"), "ins Haus"),
        ("zu", "dat", ("the", "", "Brücke"), "zur Brücke"),
        ("an", "dat", ("the", "", "Bahnhof"), "am Bahnhof"),
        ("auf", "dat", ("the", "", "Tisch"), "auf dem Tisch"),
        ("in", "dat", ("this", "", "Haus"), "in diesem Haus"),
    ],
)
def test_prepositions(preposition: str, case: str, words: tuple[Any, ...], expected: str) -> None:
    assert phrases.prepositional(preposition, case, phrase(*words)) == expected


def test_degrees_and_genitives() -> None:
    oldest = replace(phrase("the", "old", "Kirche"), degree="superlative", owner=NounPhrase(noun("Dorf")))
    assert oldest.german("dat") == "der ältesten Kirche des Dorfes"
    assert oldest.english() == "the oldest church of the village"
    car = NounPhrase(noun("Auto"), owner=NounPhrase(noun("Lehrer"), plural=True))
    assert (car.english(), car.german("nom")) == ("the teachers' car", "das Auto der Lehrer")
    adjectives = {adjective.en: adjective for adjective in LEXICON.adjectives}
    assert english.comparative(adjectives["good"]) == "better"
    assert english.superlative(adjectives["interesting"]) == "most interesting"
    assert english.superlative(adjectives["dirty"]) == "dirtiest"


# German verbs and the order of words


@pytest.mark.parametrize(
    ("verb", "person", "plural", "expected"),
    [
        ("lesen", 3, False, "liest"),
        ("arbeiten", 3, False, "arbeitet"),
        ("arbeiten", 2, False, "arbeitest"),
        ("tanzen", 2, False, "tanzt"),
        ("öffnen", 3, False, "öffnet"),
        ("lernen", 3, False, "lernt"),
        ("kennen", 3, False, "kennt"),
        ("sammeln", 1, False, "sammle"),
        ("spielen", 1, False, "spiele"),
        ("füttern", 1, True, "füttern"),
        ("ein|laden", 3, False, "lädt"),
        ("haben", 2, False, "hast"),
    ],
)
def test_present(verb: str, person: int, plural: bool, expected: str) -> None:
    assert german.present(LEXICON.verb(verb), person, plural) == expected


def test_infinitives_with_zu() -> None:
    assert german.zu_infinitive("lesen") == "zu lesen"
    assert german.zu_infinitive("auf|räumen") == "aufzuräumen"
    assert german.zu_infinitive("spazieren |gehen") == "spazieren zu gehen"


BOOK = Clause(phrases.HE, LEXICON.verb("lesen"), "past", accusative=NounPhrase(noun("Buch")))
GET_UP = Clause(phrases.SHE, LEXICON.verb("auf|stehen"), goal=Text("at seven o'clock", "um sieben Uhr"))


def test_word_order() -> None:
    yesterday = Text("yesterday", "gestern")
    assert clauses.german_final(BOOK, "weil") == "weil er das Buch gelesen hat"
    assert clauses.german_main(replace(BOOK, time=yesterday), front="gestern") == "gestern hat er das Buch gelesen"
    assert clauses.german_main(replace(BOOK, time=yesterday)) == "er hat gestern das Buch gelesen"
    assert clauses.german_question(BOOK, "warum") == "warum hat er das Buch gelesen"
    assert clauses.german_main(GET_UP) == "sie steht um sieben Uhr auf"
    assert clauses.german_final(GET_UP, "dass") == "dass sie um sieben Uhr aufsteht"
    must = replace(GET_UP, modal=english.MUST)
    assert clauses.german_main(must) == "sie muss um sieben Uhr aufstehen"
    assert clauses.german_final(must, "weil") == "weil sie um sieben Uhr aufstehen muss"
    run = Clause(phrases.THEY, LEXICON.verb("laufen"), "past")
    assert clauses.german_main(run) == "sie sind gelaufen"


def test_negation_is_nicht_or_kein() -> None:
    definite = replace(BOOK, focus=clauses.NOT)
    indefinite = replace(definite, accusative=NounPhrase(noun("Buch"), "a"))
    assert clauses.german_main(definite) == "er hat das Buch nicht gelesen"
    assert clauses.english_clause(definite) == "he did not read the book"
    assert clauses.german_main(indefinite) == "er hat kein Buch gelesen"
    assert clauses.english_clause(indefinite) == "he did not read a book"


def test_objects_and_reflexives() -> None:
    give = Clause(phrases.I, LEXICON.verb("geben"), dative=phrases.SHE, accusative=phrase("a", "small", "Ring"))
    assert clauses.german_main(give) == "ich gebe ihr einen kleinen Ring"
    assert clauses.english_clause(give) == "I give her a small ring"
    child = NounPhrase(noun("Kind"))
    glad = Clause(child, LEXICON.verb("sich freuen"), prepositional=NounPhrase(noun("Ausflug")))
    assert clauses.german_main(glad) == "das Kind freut sich auf den Ausflug"
    assert clauses.german_final(glad, "weil") == "weil sich das Kind auf den Ausflug freut"


# English


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        (GET_UP, "she gets up at seven o'clock"),
        (replace(GET_UP, tense="progressive"), "she is getting up at seven o'clock"),
        (replace(BOOK, tense="perfect"), "he has read the book"),
        (replace(BOOK, accusative=phrase("a", "old", "Buch")), "he read an old book"),
        (replace(BOOK, accusative=NounPhrase(noun("Universität"), "a")), "he read a university"),
        (replace(BOOK, tense="present", modal=english.CAN, focus=clauses.NOT), "he cannot read the book"),
        (replace(BOOK, tense="present", modal=english.WANT_TO), "he wants to read the book"),
    ],
)
def test_english_clauses(clause: Clause, expected: str) -> None:
    assert clauses.english_clause(clause) == expected


def test_english_questions() -> None:
    assert clauses.english_clause(BOOK, question=True) == "did he read the book"
    assert clauses.english_clause(replace(GET_UP, modal=english.WANT_TO), question=True) == (
        "does she want to get up at seven o'clock"
    )


def test_english_spelling_rules() -> None:
    assert [lexicon.english_plural(word) for word in ("box", "baby", "boy")] == ["boxes", "babies", "boys"]
    assert [lexicon.english_past(word) for word in ("plan", "visit", "cry", "dance")] == [
        "planned",
        "visited",
        "cried",
        "danced",
    ]
    assert [english.gerund(word) for word in ("swim", "lie", "write", "see")] == [
        "swimming",
        "lying",
        "writing",
        "seeing",
    ]


def test_unknown_words_in_a_table_are_named() -> None:
    with pytest.raises(ValueError, match="Einhorn"):
        lexicon.select(["=Einhorn"], LEXICON.nouns)
