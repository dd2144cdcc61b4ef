"""Texts that are the same but for case, stops and blanks, and texts that are nearly the same.

Near duplicates are found by MinHash over pairs of neighbouring words with bands (Broder 1997, "On
the resemblance and containment of documents"; Leskovec et al., "Mining of massive datasets", ch. 3)
and proved by their true Jaccard similarity. All texts are hashed at once as arrays: a library that
works text by text takes minutes where this takes seconds.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

NEAR = 0.8  # Jaccard similarity of word pairs from which two texts are near duplicates
LEAST_WORDS = 8  # of a text; of a shorter one a single word is too large a share
_FINAL = " .!?\u2026\u3002\u0964"  # NFKC makes the wide forms of "!" and "?" these
_BANDS, _BAND_ROWS = 10, 4  # finds 99.5 % of the pairs at 0.8


def plain_form(text: str) -> str:
    """A text without what does not change what it says: case, white space, a final stop."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split()).rstrip(_FINAL).lstrip()


def plain_forms(texts: Sequence[Sequence[str]]) -> list[str]:
    """The plain form of every row; the two texts of a pair are kept apart."""
    return ["\n".join(map(plain_form, row)) for row in zip(*texts, strict=True)]


def numbered(forms: Sequence[str]) -> np.ndarray:
    """Group [n] of each row: equal forms share a number, counted from 0."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(form, len(numbers)) for form in forms], dtype=np.int64)


def near_groups(forms: Sequence[str]) -> np.ndarray:
    """Group [n] of each row: rows that are near duplicates, directly or in a chain, share one.

    `forms` are plain forms. Texts of fewer than `LEAST_WORDS` words are near duplicates only of
    equal ones.
    """
    groups = numbered(forms)
    first = np.unique(groups, return_index=True)[1]
    shingles, starts, owners = _shingles([forms[i] for i in first])
    parent, texts = list(range(len(first))), owners.tolist()  # walked one by one: no arrays
    for a, b in _alike(shingles, starts):
        left, right = _root(parent, texts[a]), _root(parent, texts[b])
        if left != right and _similarity(shingles, starts, a, b) >= NEAR:
            parent[max(left, right)] = min(left, right)
    roots = np.array([_root(parent, i) for i in range(len(parent))], dtype=np.int64)
    return roots[groups] if len(groups) else groups


def _shingles(forms: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of the word pairs of all texts that are long enough.

    Returns the hashes of all of them one after the other, where each text's begin ([m + 1]), and
    which text each is ([m]).
    """
    numbers: dict[str, int] = {}
    words: list[int] = []
    lengths, owners = [], []
    for place, form in enumerate(forms):
        pieces = form.split()
        if len(pieces) >= LEAST_WORDS:
            words += [numbers.setdefault(piece, len(numbers)) for piece in pieces]
            lengths.append(len(pieces))
            owners.append(place)
    if not owners:
        return np.empty(0, np.uint64), np.zeros(1, np.int64), np.empty(0, np.int64)
    flat = np.array(words, dtype=np.uint64)
    pairs = _mixed(flat[:-1] * np.uint64(0x9E3779B97F4A7C15) + flat[1:])
    ends = np.cumsum(lengths)
    inside = np.ones(len(pairs), dtype=bool)
    inside[ends[:-1] - 1] = False  # a pair of two texts is none
    starts = np.concatenate([[0], np.cumsum(np.array(lengths) - 1)])
    return pairs[inside], starts.astype(np.int64), np.array(owners, dtype=np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread 64-bit values evenly (the finaliser of SplitMix64)."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _alike(shingles: np.ndarray, starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Candidates: texts that share a band of MinHashes, each with the one before it there."""
    count = len(starts) - 1
    if count < 2:
        return
    keys = np.random.default_rng(0).integers(1, 1 << 63, size=_BANDS * _BAND_ROWS, dtype=np.uint64)
    for band in range(_BANDS):
        own = keys[band * _BAND_ROWS : (band + 1) * _BAND_ROWS]
        signature = np.zeros(count, dtype=np.uint64)
        for key in own:
            least = np.minimum.reduceat(_mixed(shingles ^ key), starts[:-1])
            signature = _mixed(signature ^ least)
        order = np.argsort(signature, kind="stable")
        same = np.flatnonzero(signature[order[1:]] == signature[order[:-1]])
        yield from zip(order[same].tolist(), order[same + 1].tolist(), strict=True)


def _similarity(shingles: np.ndarray, starts: np.ndarray, a: int, b: int) -> float:
    """Jaccard similarity of the word pairs of two texts."""
    left = set(shingles[starts[a] : starts[a + 1]].tolist())
    right = set(shingles[starts[b] : starts[b + 1]].tolist())
    return len(left & right) / len(left | right)


def _root(parent: list[int], place: int) -> int:
    """The first text of a chain of near duplicates."""
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = parent[place]
    return place


def rows_by_group(groups: np.ndarray) -> dict[int, list[int]]:
    """The rows of every group that has more than one."""
    found: dict[int, list[int]] = defaultdict(list)
    counts = np.bincount(groups) if len(groups) else np.empty(0, np.int64)
    for row in np.flatnonzero(counts[groups] > 1).tolist() if len(groups) else ():
        found[int(groups[row])].append(row)
    return found
