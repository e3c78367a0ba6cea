"""Scores for translations: lexical metrics, COMET, MBR, users' own metrics, and the cache of neural scores."""
