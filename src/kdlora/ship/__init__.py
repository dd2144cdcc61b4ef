"""Models out."""
