"""What the major versions of transformers write and read differently in a model's config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError


def running_major() -> int:
    """Return the major version of the transformers library that is running."""
    import transformers

    return int(transformers.__version__.partition(".")[0])


def written_major(written: Mapping[str, Any]) -> int:
    """Return the major version that wrote a config; where it does not say, an old one."""
    first = str(written.get("transformers_version", "4")).partition(".")[0]
    return int(first) if first.isdigit() else 4


def classic_rope(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of rotary positions by the names that 4.57 knows.

    Version 5 puts them into `rope_parameters` alone, of which 4.57 reads nothing: a Llama 3 with a base of 500000
    would run with one of 10000, and nothing would say so. Version 5 reads both.
    """
    given = written.get("rope_parameters")
    if not isinstance(given, Mapping):
        return {}
    by_layer = isinstance(given.get("full_attention"), Mapping)
    rope = dict(given["full_attention"] if by_layer else given)
    base = rope.pop("rope_theta", None)
    share = rope.pop("partial_rotary_factor", None)
    classic: dict[str, Any] = {"rope_scaling": rope if rope.get("rope_type", "default") != "default" else None}
    if by_layer and isinstance(given.get("sliding_attention"), Mapping):
        classic["rope_local_base_freq"] = given["sliding_attention"].get("rope_theta")
    classic |= {"rope_theta": base, "partial_rotary_factor": share}
    if written.get("model_type") == "gpt_neox":
        classic |= {"rotary_emb_base": base, "rotary_pct": share}
    return {name: value for name, value in classic.items() if value is not None}


def load_config(path: str, allow_code: bool = False) -> tuple[Any, dict[str, Any]]:
    """Return the config of a directory or hub name as this version reads it, and as it stands in its file.

    Raises:
        UserError: this version cannot load such a model.
    """
    from transformers import AutoConfig, PretrainedConfig

    written, _ = PretrainedConfig.get_config_dict(path)
    known = classic_rope(written) if running_major() < 5 else {}
    config = AutoConfig.from_pretrained(path, trust_remote_code=allow_code, **known)
    _check_vocabularies(path, config)
    return config, written


def _check_vocabularies(path: str, config: Any) -> None:
    """Refuse what 4.57 cannot hold: it makes the table of Marian's target as large as that of the source."""
    if config.model_type != "marian" or config.share_encoder_decoder_embeddings or running_major() >= 5:
        return
    if config.decoder_vocab_size != config.vocab_size:
        raise UserError(
            f"{path}: its source and target vocabularies have different sizes ({config.vocab_size} and "
            f"{config.decoder_vocab_size}), which transformers 4 cannot load; use transformers 5"
        )


def mend_config(folder: Path) -> None:
    """Make the config.json of a saved model one that both versions read alike."""
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(written | classic_rope(written), indent=2) + "\n", encoding="utf-8")
