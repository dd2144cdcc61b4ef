"""Splits carved from one set of rows: stratified, and never with one text on both sides.

Rows are stratified by their class or their number, or by all their labels at once.

Where models are selected and where they are reported must differ, so the selection split comes
out of train. All of it depends on `split_seed` alone: every run of a study sees the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdlora.spec.sections import Data
from kdlora.vocabulary.task import Kind

LARGEST_SHARE = 0.2  # of train, for the selection split and for a report split held out of it
SHORT_SELECTION = 100  # rows; a choice made on fewer is noisy
FOLDS = 5  # of rows that are answered out of fold
_BIN_ROWS, _MOST_BINS = 20, 10


def selection_size(n: int, data: Data, *, scarce: bool = False) -> int:
    """Rows of n to select on: a fraction, at least a minimum, at most a fifth or as set.

    Where labels are `scarce`, since a teacher labels most training rows, they serve to select and
    to report first: it may be half of the labelled ones.
    """
    wanted = max(round(data.selection_fraction * n), data.selection_min)
    largest = 1 / 2 if scarce else LARGEST_SHARE
    return min(wanted, int(largest * n), data.max_selection or n)


def report_size(n: int, data: Data, *, scarce: bool = False) -> int:
    """Rows of n to report on where no file holds any: a fifth.

    Where labels are `scarce` it may be a third, up to as many as are selected on at least.
    """
    fifth = int(LARGEST_SHARE * n)
    return max(fifth, min(data.selection_min, n // 3)) if scarce else fifth


def strata_of(kind: Kind, labels: np.ndarray) -> np.ndarray:
    """Stratum [n] of each row: its class, or the quantile bin of its number (at most ten).

    Of labels [n, c], of which a row may have several, it is the set of them.
    """
    if kind.several:
        return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    if not kind.numeric:
        return labels.astype(np.int64)
    bins = int(np.clip(len(labels) // _BIN_ROWS, 1, _MOST_BINS))
    edges = np.unique(np.quantile(labels, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, labels, side="right").astype(np.int64)


def groups_of(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Group [n] of each row: rows with the same texts share a number, counted from 0."""
    numbers: dict[tuple[str, ...], int] = {}
    rows = zip(*texts, strict=True)
    return np.array([numbers.setdefault(row, len(numbers)) for row in rows], dtype=np.int64)


def apportion(counts: np.ndarray, size: int) -> np.ndarray:
    """Share out `size` seats in proportion to counts [k], by largest remainders.

    The sum is exactly `size` (at most the sum of counts) and no share exceeds its count. If there
    are seats enough, every non-empty stratum gets one, at the cost of the largest.
    """
    total = int(counts.sum())
    if not 0 <= size <= total:
        raise ValueError(f"cannot share out {size} of {total} rows")
    if size == 0:
        return np.zeros_like(counts)
    # integer arithmetic: a float quota of 2.9999999 would lose a seat
    shares, remainders = np.divmod(counts * size, total)
    first = np.argsort(-remainders, kind="stable")[: size - int(shares.sum())]
    shares[first] += 1
    if size >= np.count_nonzero(counts):
        for empty in np.flatnonzero((shares == 0) & (counts > 0)):
            shares[np.argmax(shares)] -= 1
            shares[empty] = 1
    return shares


def carve(
    strata: np.ndarray, groups: np.ndarray, *, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into (kept, carved), both sorted positions that together are all rows.

    About `size` rows are carved, spread over the strata in proportion. A group goes to one side
    as a whole and counts for the stratum of its first row; a group larger than what its stratum
    may still give is kept, so the carved part can fall short, never exceed. Every stratum keeps
    at least one row, for sizes up to half of the rows; one with a single group is kept whole.
    """
    n = len(strata)
    _, first, group, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    names, stratum = np.unique(strata[first], return_inverse=True)  # of each group
    counts = np.bincount(stratum, weights=sizes, minlength=len(names)).astype(np.int64)
    counts[np.bincount(stratum, minlength=len(names)) < 2] = 0
    shares = apportion(counts, size * int(counts.sum()) // max(n, 1))

    carved = np.zeros(len(first), dtype=bool)
    order = rng.permutation(len(first))
    for number, share in enumerate(shares.tolist()):
        left = share
        for candidate in order[stratum[order] == number].tolist():
            if left == 0:
                break
            if sizes[candidate] <= left:
                carved[candidate] = True
                left -= int(sizes[candidate])
    taken = carved[group]
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def carve_labels(
    labels: np.ndarray, groups: np.ndarray, *, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`carve` where a row may have several labels [n, c]: each label keeps its rate on both sides.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of
    multi-label data"): the rarest label that is left is shared out first, each of its groups to the
    side that lacks it most. The carved part has exactly `size` rows, or fewer where groups of the
    same text are larger than what is missing.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    counts = np.zeros((len(sizes), labels.shape[1]))  # rows of each group that have each label
    np.add.at(counts, group, labels > 0)
    share = size / max(len(labels), 1)
    lacks = np.stack([(1 - share) * counts.sum(0), share * counts.sum(0)])  # kept, carved
    room = np.array([len(labels) - size, size], dtype=np.float64)
    side = np.full(len(sizes), -1)
    order = rng.permutation(len(sizes))

    def place(one: int, wanted: np.ndarray) -> None:
        fits = sizes[one] <= room
        fits[0] |= not fits.any()  # what is too large for either side is kept
        lacking = np.where(fits, wanted, -np.inf)
        best = np.flatnonzero(lacking == lacking.max())
        chosen = int(best[np.argmax(room[best])])
        side[one] = chosen
        lacks[chosen] -= counts[one]
        room[chosen] -= sizes[one]

    while True:
        open_groups = order[side[order] < 0]
        left = counts[open_groups].sum(0)
        if not left.any():
            break
        label = int(np.argmin(np.where(left > 0, left, np.inf)))
        for one in open_groups[counts[open_groups, label] > 0].tolist():
            place(one, lacks[:, label])
    for one in order[side[order] < 0].tolist():  # without any label
        place(one, room)
    carved = side[group] == 1
    return np.flatnonzero(~carved), np.flatnonzero(carved)


def subset(strata: np.ndarray, *, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted positions of `size` rows in proportion to the strata; all rows if there are fewer."""
    if size >= len(strata):
        return np.arange(len(strata))
    names, stratum, counts = np.unique(strata, return_inverse=True, return_counts=True)
    shares = apportion(counts, size)
    order = rng.permutation(len(strata))
    chosen = [order[stratum[order] == i][: shares[i]] for i in range(len(names))]
    return np.sort(np.concatenate(chosen))


def folds_of(
    kind: Kind, labels: np.ndarray, texts: Sequence[Sequence[str]], *, rng: np.random.Generator
) -> np.ndarray:
    """One of `FOLDS` folds for each row [n], from 0: spread over the strata of the labels.

    Rows of the same text are in one fold.
    """
    strata = strata_of(kind, labels)
    _, first, group = np.unique(groups_of(texts), return_index=True, return_inverse=True)
    order = rng.permutation(len(first))
    order = order[np.argsort(strata[first][order], kind="stable")]  # stratum after stratum
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % FOLDS
    return fold[group]
