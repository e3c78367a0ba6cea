"""Scores of systems on test sets, with confidence intervals and significance tests, kept in evaluation.json."""
