"""From text to aligned batches: one layout for encoder-decoder models, one for decoder-only models."""
