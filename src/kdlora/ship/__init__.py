"""Models out: the student that is kept, its exported forms, and predictions with them."""
