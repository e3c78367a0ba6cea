"""Models and their log-probabilities: families, loading, saving, adapters, and checks that a loaded model is intact."""
