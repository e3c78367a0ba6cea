"""Relative clauses."""

from dataclasses import replace

from demo_grammar import phrases
from demo_grammar.clauses import BE, Clause, english_clause, german_final
from demo_grammar.lexicon import Noun, Text
from demo_grammar.phrases import NounPhrase
from demo_grammar.sampler import NoChoiceError, Sampler
from demo_grammar.telling import bare, be, sentence, statement, without_frames


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
    kind = s.pick(("past", "progressive"))
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
    return about(
        s, NounPhrase(noun, "the", plural), Text(f"{'whom' if human else 'that'} {english_clause(clause)}", de)
    )


def about(s: Sampler, head: NounPhrase, relative: Text) -> Text:
    """Say something about the noun with the relative clause: an adjective, or who it is."""
    full = replace(head, suffix=Text(f" {relative.en}", f", {relative.de},"))
    if head.noun.tags & {"adult"} and s.chance(0.4) and not head.plural and head.noun.gender == "m":
        kin = s.kin_phrase(s.free_noun([noun for noun in s.tagged("family") if noun.gender == "m"]))
        if kin.plural:
            raise NoChoiceError
        return sentence(statement(Clause(full, BE, goal=Text(kin.english(), kin.german("nom")))))
    adjective = s.predicate_for(head.noun)
    degree = s.degree_for(adjective)
    return sentence(statement(be(full, Text(f"{degree.en} {adjective.en}", f"{degree.de} {adjective.de}"))))


def as_subject(relative: phrases.Pronoun, noun: Noun, plural: bool) -> phrases.Pronoun:
    """The relative pronoun, with the possessive of the noun it stands for."""
    return replace(relative, possessive=NounPhrase(noun, "the", plural).possessive)
