"""What several test files share: tiny models and checkpoints, commands in processes, made-up runs."""
