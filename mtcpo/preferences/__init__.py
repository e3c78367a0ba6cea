"""From scored candidates to triplets: combine metrics, select pairs, filter them, balance them, report on them."""
