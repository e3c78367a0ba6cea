"""From text to aligned decoder states: the two layouts, and which one a model has."""

from __future__ import annotations

from typing import Any

from mtcpo.families import Family
from mtcpo.layouts.contract import Batch, Example, Layout, Text
from mtcpo.layouts.decoderonly import DecoderOnlyLayout
from mtcpo.layouts.encoderdecoder import EncoderDecoderLayout
from mtcpo.packing import can_pack

__all__ = ["Batch", "Example", "Layout", "Text", "layout_for", "max_positions_of"]


def max_positions_of(config: Any) -> int | None:
    """Return the longest sequence a model with absolute or bounded positions can take; None for relative ones (T5)."""
    for name in ("max_position_embeddings", "max_target_positions", "n_positions"):
        limit = getattr(config, name, None)
        # T5 keeps n_positions = 512 from its pre-training; its relative positions have no bound.
        if isinstance(limit, int) and not hasattr(config, "relative_attention_num_buckets"):
            return limit
    return None


def layout_for(model: Any, tokenizer: Any, family: Family, prompt: str | None) -> Layout:
    """Return the layout of a loaded model; `prompt` replaces the family's template."""
    limit = max_positions_of(model.config)
    if family.layout == "decoder-only":
        return DecoderOnlyLayout(model, tokenizer, prompt, limit, can_pack(model))
    return EncoderDecoderLayout(model, tokenizer, family, prompt or family.prompt or "{source}", limit)
