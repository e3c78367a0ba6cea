"""Engines of tiny models."""

import pytest


@pytest.fixture
def engine(load):
    """A function from a kind of tiny model to an engine whose outputs depend on its sources."""
    import torch

    from mtcpo.translation.engines.transformers import GenerateEngine

    def make(kind, sharpen=None):
        loaded = load(kind)
        if sharpen is not None or kind in ("mt5", "llama"):
            # The output of a new model is nearly uniform; a larger lm_head makes it depend on the source.
            with torch.no_grad():
                loaded.model.get_output_embeddings().weight.mul_(sharpen or 30.0)
        return GenerateEngine(loaded, "tiny")

    return make
