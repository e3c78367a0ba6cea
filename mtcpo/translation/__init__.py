"""Sources in, candidates out: decoding settings, sampling, engines, resumable output files."""
