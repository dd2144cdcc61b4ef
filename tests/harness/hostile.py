"""A text of a stranger that tries all there is, and what must not come through."""

from __future__ import annotations

import unicodedata

HOSTILE = (
    "\x1b[2J\x1b]0;mine\x07 over\rwritten \x9b31m a\u202eb\u2066c\u2028d [red]arm[/red] :bug: [/x]"
)


def obeyed(text: str) -> set[str]:
    """Characters that a terminal takes for a command, or that turn around what follows."""
    turning = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    return {
        letter
        for letter in text
        if (unicodedata.category(letter) in ("Cc", "Zl", "Zp") and letter not in "\n\t")
        or unicodedata.bidirectional(letter) in turning
    }
