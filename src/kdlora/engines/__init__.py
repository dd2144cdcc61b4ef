"""Where runs happen; never what they record."""
