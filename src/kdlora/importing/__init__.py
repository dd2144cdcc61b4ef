"""Results of other tools, read into the same tidy frame that our own records make."""
