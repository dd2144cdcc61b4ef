"""Bootstrap intervals (Efron 1979): of runs, of whole clusters, within strata. In bounded memory.

Percentile intervals of few units are too narrow: of 9 tasks a nominal 95 % covers about 90 %.
`interval` can expand the percentiles for that (Hesterberg 2015, "What teachers should know about
the bootstrap", section 5.3): exact for the mean of normal data, close to it elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

_CHUNK = 4_000_000  # numbers held at once
_BUDGET = 400_000_000  # numbers drawn at most in one call


def affordable(draws: int, size: int) -> int:
    """Fewer draws (never under 1,000) where a sample is so large that 10,000 would take minutes."""
    return min(draws, max(1_000, _BUDGET // max(size, 1)))


def resample(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices [k, n] of resamples with replacement, in chunks that sum to `draws` rows."""
    chunk = max(1, _CHUNK // max(n, 1))
    for start in range(0, draws, chunk):
        yield rng.integers(0, n, (min(chunk, draws - start), n), dtype=np.int32)


def bootstrap_mean(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means [draws] of resampled `values` [n]."""
    values = np.asarray(values, dtype=float)
    draws = affordable(draws, len(values))
    return np.concatenate([values[i].mean(1) for i in resample(len(values), draws, rng)])


def bootstrap_clusters(
    values: np.ndarray,
    clusters: np.ndarray,
    draws: int,
    rng: np.random.Generator,
    *,
    denominator: np.ndarray | None = None,
) -> np.ndarray:
    """Means [draws] of `values` [n] when whole clusters (integer codes [n]) are resampled.

    A mean is a ratio of sums, since clusters differ in size; `denominator` [n] replaces the
    counts, which gives the ratio of two totals.
    """
    weights = np.ones(len(values)) if denominator is None else denominator
    top = np.bincount(clusters, weights=values)
    bottom = np.bincount(clusters, weights=weights)
    present = np.bincount(clusters) > 0
    top, bottom = top[present], bottom[present]
    parts = []
    for i in resample(len(top), affordable(draws, len(top)), rng):
        with np.errstate(all="ignore"):  # a draw may hold nothing but zeros below
            parts.append(top[i].sum(1) / bottom[i].sum(1))
    return np.concatenate(parts)


def bootstrap_strata(
    rows: np.ndarray,
    strata: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Statistics [draws, ...] of `rows` [n, k] resampled within each stratum (codes [n]).

    `statistic` maps resampled rows [chunk, n, k] to [chunk, ...]. Rows are kept whole, so columns
    (methods) that share cells stay paired.
    """
    order = np.argsort(strata, kind="stable")
    rows, strata = rows[order], strata[order]
    _, starts, sizes = np.unique(strata, return_index=True, return_counts=True)
    offset, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    draws = affordable(draws, rows.size)
    chunk = max(1, _CHUNK // max(rows.size, 1))
    parts = []
    for start in range(0, draws, chunk):
        uniform = rng.random((min(chunk, draws - start), len(rows)))
        parts.append(statistic(rows[offset + (uniform * size).astype(np.int32)]))
    return np.concatenate(parts)


def interval(
    draws: np.ndarray, *, alpha: float = 0.05, sizes: np.ndarray | list[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the first axis of `draws`.

    `sizes` (units in each resampled stratum; one number without strata) expands it: the bootstrap
    divides by n where the variance needs n - 1, and uses the normal where t is due. NaN when no
    stratum has two units, for then nothing varies.
    """
    tail = alpha / 2
    if sizes is not None:
        several = np.asarray(sizes, dtype=float)
        several = several[several > 1]
        if not len(several):
            nan = np.full(draws.shape[1:], np.nan)
            return nan, nan
        shrunk = np.mean(several / (several - 1))
        factor = math.sqrt(shrunk) * stats.t.ppf(1 - tail, (several - 1).sum())
        tail = float(stats.norm.sf(factor))
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return low, high
