"""Rulers: quality, agreement, efficiency and health of one run."""
