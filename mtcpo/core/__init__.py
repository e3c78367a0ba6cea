"""Foundations: errors, configuration, files, locks, worker processes. Nothing about translation, no import of torch."""
