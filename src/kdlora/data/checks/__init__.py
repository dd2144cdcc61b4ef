"""A look at a task's rows before anything is trained on them."""
