"""A small English-German grammar, written for the demo corpus.

Every sentence is built once as a structure and written in both languages, so that both sides always mean the same.
Modules, each importing only those before it: lexicon, german, english, phrases, clauses, plausibility, sampler,
telling, simple, questions, subordinate_clauses, relatives, qualities, infinitives, templates.
"""
