"""Triplets in, a model directory out: losses, trainer, token cache, checkpoints, sharding, model card."""
