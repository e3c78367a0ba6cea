"""From decoder states to log-probabilities and losses, without all the logits at once."""
