"""Systems on test sets: corpus scores, confidence intervals, significance, evaluation.json."""
