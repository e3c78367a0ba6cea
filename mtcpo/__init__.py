"""Preference training of machine-translation models: build triplets, train with CPO, evaluate on WMT."""

__version__ = "0.1.0"
