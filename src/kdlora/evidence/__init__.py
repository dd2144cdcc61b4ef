"""What the records prove: pure functions over the tidy frame."""
