"""The teacher's signal: cached soft labels and the losses that use them."""
