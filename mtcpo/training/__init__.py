"""From triplets or references to a model directory: losses, trainer, token cache, checkpoints, sharding, model card."""
