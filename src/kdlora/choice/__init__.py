"""Which model to use: candidates, their forms and costs, and one rule that chooses."""
