"""Evidence: pure functions over the tidy frame of runs."""
