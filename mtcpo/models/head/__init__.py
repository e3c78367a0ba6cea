"""Log-probabilities and losses computed from decoder states, without ever holding all logits in memory."""
