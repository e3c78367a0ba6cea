"""From sources to candidates: decoding settings, sampling, engines, and output files that can be resumed."""
