"""For notebooks: build preferences, train and evaluate on datasets in memory."""
