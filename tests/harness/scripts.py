"""Words in the scripts of the world's languages, made of letters alone."""

from __future__ import annotations

import numpy as np

# First and last of the letters that words are made of, and of the marks that may follow a letter.
LETTERS: dict[str, tuple[int, int]] = {
    "latin": (0x61, 0x7A),
    "greek": (0x3B1, 0x3C9),
    "cyrillic": (0x430, 0x44F),
    "armenian": (0x561, 0x586),
    "georgian": (0x10D0, 0x10F0),
    "hebrew": (0x5D0, 0x5EA),
    "arabic": (0x628, 0x63A),
    "devanagari": (0x915, 0x939),
    "bengali": (0x995, 0x9A8),
    "gurmukhi": (0xA15, 0xA28),
    "gujarati": (0xA95, 0xAA8),
    "tamil": (0xB8E, 0xB90),
    "telugu": (0xC15, 0xC28),
    "kannada": (0xC95, 0xCA8),
    "malayalam": (0xD15, 0xD28),
    "ethiopic": (0x1208, 0x1246),
    "hangul": (0xAC00, 0xB000),
    "thai": (0xE01, 0xE2E),
    "khmer": (0x1780, 0x17A2),
    "han": (0x4E00, 0x5000),
}
MARKS = {
    "devanagari": (0x93E, 0x94C), "bengali": (0x9BE, 0x9C4), "gurmukhi": (0xA3E, 0xA42),
    "gujarati": (0xABE, 0xAC5), "tamil": (0xBBE, 0xBC2), "telugu": (0xC3E, 0xC44),
    "kannada": (0xCBE, 0xCC4), "malayalam": (0xD3E, 0xD44),
}  # fmt: skip
UNSPACED = ("thai", "khmer", "han")  # written without blanks between words


def lexicon(script: str, n: int = 150) -> list[str]:
    """Words of a script: of four to eight letters, of Han one or two."""
    rng = np.random.default_rng(sorted(LETTERS).index(script))
    words: set[str] = set()
    low, high = LETTERS[script]
    marks = MARKS.get(script)
    while len(words) < n:
        size = int(rng.integers(1, 3) if script == "han" else rng.integers(4, 9))
        word = ""
        for letter in rng.integers(low, high + 1, size):
            word += chr(letter)
            if marks and rng.random() < 0.4:
                word += chr(rng.integers(marks[0], marks[1] + 1))
        words.add(word)
    return sorted(words)


def texts_in(script: str, n: int, seed: int = 0) -> list[str]:
    """Sentences of five to fifteen words of a script."""
    rng = np.random.default_rng(seed)
    words = lexicon(script)
    between = "" if script in UNSPACED else " "
    return [between.join(rng.choice(words, rng.integers(5, 16))) + "." for _ in range(n)]
