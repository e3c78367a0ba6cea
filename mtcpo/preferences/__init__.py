"""From scored candidates to triplets: combine metrics, select pairs, filter, balance, report."""
