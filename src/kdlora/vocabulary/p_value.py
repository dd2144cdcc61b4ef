"""How a p-value is written, in sentences, tables and the terminal alike."""

from __future__ import annotations

SMALLEST = 0.001  # that is told; what is less depends on the far ends of distributions


def p_text(p: float, *, below: str = "below") -> str:
    """``0.012``, or ``below 0.001``; `below` is "<" where there is little room."""
    return f"{below} {SMALLEST}" if p < SMALLEST else f"{p:.3f}"
