"""CTranslate2 as an engine: encoder-decoder models and the decoder-only ones that it knows, on CPUs and GPUs.

From a model to candidates:

    conversion   the loaded model -> CTranslate2's format, in which tokens are numbers   ctranslate2_conversion
    store        converted models and their proofs in the user's cache                   ctranslate2_store
    proof        the first sources, here and by transformers, before anything is used    ctranslate2_proof
    search       beam search, with the hypotheses that transformers would finish         ctranslate2_search
    sampling     nucleus, top-k, and epsilon by rejection                                ctranslate2_sampling
    engine       the `Engine` that puts them together                                    ctranslate2_engine
    limits       what CTranslate2 cannot do                                              ctranslate2_limits
"""

from __future__ import annotations

from mtcpo.core.errors import UserError
from mtcpo.translation.engines.base import Engine, LoadRequest
from mtcpo.translation.engines.ctranslate2_limits import why_not, why_not_search, why_slow

__all__ = ["load", "why_not", "why_not_search", "why_slow"]


def load(request: LoadRequest) -> Engine:
    """Convert a model, or find it in the cache, and prove it with the request's sample.

    Raises:
        UserError: CTranslate2 is not installed or does not know the family, or the model cannot be loaded or converted.
        EngineRefused: its outputs differ from those of transformers.
    """
    reason = why_not(request.model, request.options)
    if reason is not None:
        name = request.model if isinstance(request.model, str) else request.model.name
        raise UserError(f"{name}: engine ctranslate2 cannot be used: {reason}; choose --engine transformers")
    from mtcpo.translation.engines.ctranslate2_engine import CTranslate2Engine

    return CTranslate2Engine(request)
