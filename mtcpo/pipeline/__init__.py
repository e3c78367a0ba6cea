"""Recipes: the stages of a run, each of which can be resumed, in one run directory."""
