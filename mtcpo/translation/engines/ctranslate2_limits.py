"""What CTranslate2 cannot do, found out without loading weights, and without CTranslate2 if it is not installed."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from mtcpo.core.errors import UserError
from mtcpo.models.config import ModelOptions
from mtcpo.translation.config import TranslateConfig

if TYPE_CHECKING:
    from mtcpo.models.loading import LoadedModel


def why_not(model: str | LoadedModel, options: ModelOptions) -> str | None:
    """Return why CTranslate2 cannot run a model, None if it may; no weights are loaded.

    A model that cannot be found gives None: loading it has the better message.
    """
    if importlib.util.find_spec("ctranslate2") is None:
        return "the package ctranslate2 is not installed (pip install 'mtcpo[ct2]')"
    from mtcpo.translation.engines.ctranslate2_conversion import loader_for

    if isinstance(model, str):
        try:
            config = _config_of(model, options)
        except UserError:
            return None
    elif getattr(model.model, "is_quantized", False):
        return "the model is quantized by another package"
    else:
        config = model.model.config
    if loader_for(config) is None:
        return f"CTranslate2 does not know the model type {config.model_type!r}"
    return None


def _config_of(name: str, options: ModelOptions) -> Any:
    """Return the config of a model, or of the base of adapters."""
    from mtcpo.models.adapters import adapters_base
    from mtcpo.models.compat import load_config
    from mtcpo.models.model_code import refuse_model_code
    from mtcpo.models.names import check_reachable, explain_load_errors, resolve_model_name

    path = resolve_model_name(name)
    check_reachable(path)
    refuse_model_code(path, options.allow_code)
    base = adapters_base(path)
    if base is not None:
        return _config_of(base, options)
    with explain_load_errors(path):
        return load_config(path, options.allow_code)[0]


def why_not_search(config: TranslateConfig) -> str | None:
    """Return why CTranslate2 cannot search or sample exactly as a configuration says, None if it can."""
    if config.sampling == "diverse":
        return "CTranslate2 has no diverse beam search"
    if config.sampling == "epsilon" and config.temperature != 1:
        # Its probabilities are those before the temperature, and a bound on those is another set of tokens.
        return "epsilon sampling by CTranslate2 needs temperature 1"
    return None


def why_slow(config: TranslateConfig) -> str | None:
    """Return why transformers is the faster engine for a search, None if it is not."""
    if config.sampling == "epsilon":
        # Each rejected token costs another pass over the prefix before it, with dozens of rounds for long samples.
        return "CTranslate2 draws epsilon samples by rejection, which takes longer than sampling with transformers"
    return None
