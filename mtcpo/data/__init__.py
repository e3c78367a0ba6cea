"""Text as records: segments, candidates, triplets, their languages, and every format that is read. No torch."""
