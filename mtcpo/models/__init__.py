"""Models and their log-probabilities: families, loading, saving, adapters, and proof that a model is intact."""
