"""A recipe as resumable stages in a run directory."""
