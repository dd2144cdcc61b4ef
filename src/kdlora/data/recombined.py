"""Pairs made anew of the texts of labelled pairs, for a teacher to label.

Each text of few labelled pairs stands in one pair alone, so a student may as well learn which texts
score high as what makes two of them alike. In pairs with others it has to compare. Drawn at random,
almost all pairs are unlike: most are made of texts that share words. Source: Thakur et al. (2021),
"Augmented SBERT".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEAREST, RANDOM = 4, 1  # pairs that each first text gets
MOST_TEXTS = 20_000  # of a column, drawn where there are more: all are compared with all
_CHUNK = 500


def recombined(pairs: Sequence[tuple[str, str]], rng: np.random.Generator) -> list[tuple[str, str]]:
    """Each first text with second texts of other pairs: those that share most with it, and any one.

    What two texts share is the cosine of their words' TF-IDF. Pairs that are there already, and
    those of a text with itself, are not made.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # a plan need not wait for it

    known = set(pairs)
    lefts, rights = (_some(column, rng) for column in zip(*pairs, strict=True))
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    try:
        words.fit([*lefts, *rights])
    except ValueError:  # no text holds a word
        return []
    columns = words.transform(rights).T.tocsc()
    made: dict[tuple[str, str], None] = {}
    for start in range(0, len(lefts), _CHUNK):
        part = lefts[start : start + _CHUNK]
        shared = (words.transform(part) @ columns).toarray()
        for left, row in zip(part, shared, strict=True):
            order = np.argsort(-row, kind="stable")
            near = [(left, rights[i]) for i in order[: NEAREST + 8]]
            found = [pair for pair in near if pair not in known and pair[0] != pair[1]][:NEAREST]
            chance = (left, rights[int(rng.integers(len(rights)))])
            made.update(dict.fromkeys([*found, *([chance] * RANDOM)]))
    return [pair for pair in made if pair not in known and pair[0] != pair[1]]


def _some(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The texts, each once, or so many of them as can be compared."""
    distinct = list(dict.fromkeys(texts))
    if len(distinct) <= MOST_TEXTS:
        return distinct
    chosen = np.sort(rng.choice(len(distinct), MOST_TEXTS, replace=False))
    return [distinct[i] for i in chosen]
