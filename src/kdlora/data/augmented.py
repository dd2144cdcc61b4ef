"""Texts made anew of labelled ones by small changes of their words, for a teacher to label.

Where every text has its label and there are no others, these are texts that nobody has labelled.
What a change does to the label is the teacher's to say, so a change need not keep the meaning.
Sources: Tang et al. (2019), "Distilling Task-Specific Knowledge from BERT into Simple Neural
Networks"; Wei and Zou (2019), "EDA".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VERSIONS = 4  # of each row
_CHANGED = 0.2  # at most this share of a text's words, and at least one


def augmented(rows: Sequence[tuple[str, ...]], rng: np.random.Generator) -> list[tuple[str, ...]]:
    """New versions of each row: in one of its texts some words are changed.

    A change replaces a word by one of any text, adds such a word, leaves a word out, or swaps it
    with its neighbour. A text without white space is changed by its characters, unless it is ASCII.
    Rows of which no text has two words make nothing.
    """
    split = [tuple(map(_words, row)) for row in rows]
    pool = [word for row in split for words, _ in row for word in words]
    made: dict[tuple[str, ...], None] = {}
    for row, parts in zip(rows, split, strict=True):
        open_to_it = [i for i, (words, _) in enumerate(parts) if len(words) > 1]
        for _ in range(VERSIONS if open_to_it else 0):
            column = open_to_it[int(rng.integers(len(open_to_it)))]
            words, joint = parts[column]
            text = joint.join(_changed(words, pool, rng))
            made[(*row[:column], text, *row[column + 1 :])] = None
    known = set(rows)
    return [row for row in made if row not in known]


def _words(text: str) -> tuple[list[str], str]:
    """The words of a text, or its characters, and what stands between them."""
    words = text.split()
    if len(words) == 1 and not text.isascii():
        return list(words[0]), ""
    return words, " "


def _changed(words: list[str], pool: Sequence[str], rng: np.random.Generator) -> list[str]:
    words = list(words)
    for _ in range(int(rng.integers(1, max(1, round(_CHANGED * len(words))) + 1))):
        place, change = int(rng.integers(len(words))), int(rng.integers(4))
        other = pool[int(rng.integers(len(pool)))]
        if change == 0:
            words[place] = other
        elif change == 1:
            words.insert(place, other)
        elif change == 2 and len(words) > 1:
            del words[place]
        elif len(words) > 1:
            left = min(place, len(words) - 2)
            words[left], words[left + 1] = words[left + 1], words[left]
    return words
