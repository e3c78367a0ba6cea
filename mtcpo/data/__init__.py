"""Segments, candidates and triplets, their languages, and readers for every input format. Imports no torch."""
