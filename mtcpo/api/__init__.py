"""The Python interface, for notebooks: build preferences, train and evaluate on data sets in memory."""
