"""Engines, which run a loaded model: one small interface, a catalogue, and a module or two for each engine."""
