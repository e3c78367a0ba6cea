"""Tiny models as engines of CTranslate2."""

from mtcpo.models.config import DEFAULT_OPTIONS
from mtcpo.translation.engines.base import LoadRequest
from mtcpo.translation.engines.ctranslate2 import load


def ct2_engine(model, sample=(), dtype="float32", on_batch=lambda sources: None):
    """The engine for a model, by name or in memory."""
    return load(LoadRequest(model, "tiny", dtype, DEFAULT_OPTIONS, on_batch, sample))


def texts_of(found):
    """Texts of candidates, by source."""
    return [[candidate.text for candidate in candidates] for candidates in found]
