"""Differences between transformers 4 and 5 in writing and reading a model's config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError


def running_major() -> int:
    """Return the major version of the installed transformers."""
    import transformers

    return int(transformers.__version__.partition(".")[0])


def written_major(written: Mapping[str, Any]) -> int:
    """Return the major version of transformers that wrote a config; 4 if it does not say (old versions did not)."""
    first = str(written.get("transformers_version", "4")).partition(".")[0]
    return int(first) if first.isdigit() else 4


def classic_rope(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of rotary positions under the names that 4.57 reads.

    Version 5 writes only `rope_parameters`, which 4.57 silently ignores: a Llama 3 with base 500000 would run with base
    10000. Version 5 reads both.
    """
    parameters = written.get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return {}
    # Gemma 3 has two kinds of layers with separate parameters.
    by_layer = isinstance(parameters.get("full_attention"), Mapping)
    rope = dict(parameters["full_attention"] if by_layer else parameters)
    base = rope.pop("rope_theta", None)
    share = rope.pop("partial_rotary_factor", None)
    classic: dict[str, Any] = {"rope_scaling": rope if rope.get("rope_type", "default") != "default" else None}
    if by_layer and isinstance(parameters.get("sliding_attention"), Mapping):
        classic["rope_local_base_freq"] = parameters["sliding_attention"].get("rope_theta")
    classic |= {"rope_theta": base, "partial_rotary_factor": share}
    # GPT-NeoX has other names for both.
    if written.get("model_type") == "gpt_neox":
        classic |= {"rotary_emb_base": base, "rotary_pct": share}
    return {name: value for name, value in classic.items() if value is not None}


def load_config(path: str, allow_code: bool = False) -> tuple[Any, dict[str, Any]]:
    """Return the config of a directory or hub name: as the installed transformers reads it, and as written in the file.

    allow_code: whether classes from the model's directory may be imported.

    Raises:
        UserError: the installed transformers cannot load such a model.
    """
    from transformers import AutoConfig, PretrainedConfig

    written, _ = PretrainedConfig.get_config_dict(path)
    rope = classic_rope(written) if running_major() < 5 else {}
    config = AutoConfig.from_pretrained(path, trust_remote_code=allow_code, **rope)
    _check_vocabularies(path, config)
    return config, written


def _check_vocabularies(path: str, config: Any) -> None:
    """Refuse what 4.57 cannot load: it gives Marian's target embeddings as many rows as the source embeddings."""
    if config.model_type != "marian" or config.share_encoder_decoder_embeddings or running_major() >= 5:
        return
    if config.decoder_vocab_size != config.vocab_size:
        raise UserError(
            f"{path}: its source and target vocabularies have different sizes ({config.vocab_size} and "
            f"{config.decoder_vocab_size}), which transformers 4 cannot load; use transformers 5"
        )


def mend_config(folder: Path) -> None:
    """Extend a saved model's config.json, so that both versions read it alike."""
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(written | classic_rope(written), indent=2) + "\n", encoding="utf-8")
