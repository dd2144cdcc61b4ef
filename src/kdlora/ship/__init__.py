"""Models out: the student that is kept, and predictions with it."""
