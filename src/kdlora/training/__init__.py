"""The one loop, its schedule and its precision."""
