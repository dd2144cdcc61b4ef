"""One-sample tests of differences, effect sizes and corrections for many tests.

The tests work on the last axis, so that one call serves thousands of simulated studies. They
answer NaN where the data allow no answer (too few values, no spread): NaN is never significant.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import stats

EXACT_UP_TO = 16  # values; 2**16 sign patterns are listed, more are drawn
RANKS_EXACT_UP_TO = 13  # values, ties or not: what scipy does, which takes seconds where ranks tie
_BUDGET = 40_000_000  # signs drawn at most, so that huge samples get fewer permutations


def no_spread(values: np.ndarray) -> np.ndarray:
    """Where all values of the last axis are equal up to rounding: no test can be made of them."""
    values = np.asarray(values, dtype=float)
    largest = np.max(np.abs(values), axis=-1, initial=0.0)
    return np.ptp(values, axis=-1) <= 1e-12 * np.maximum(largest, 1e-3)


def t_test(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t of mean 0 and its two-sided p, `values` [..., n]."""
    values = np.asarray(values, dtype=float)
    if values.shape[-1] < 2:
        nan = np.full(values.shape[:-1], np.nan)
        return nan, nan
    with np.errstate(all="ignore"):
        t = np.mean(values, -1) / (np.std(values, -1, ddof=1) / np.sqrt(values.shape[-1]))
    t = np.where(no_spread(values), np.nan, t)
    return t, 2 * stats.t.sf(np.abs(t), values.shape[-1] - 1)


def wilcoxon_p(values: np.ndarray) -> np.ndarray:
    """Wilcoxon's signed-rank test, two-sided, zeros dropped (Wilcoxon 1945), `values` [..., n].

    Exact where scipy is exact (small samples), else the normal approximation with ties.
    """
    values = np.asarray(values, dtype=float)
    flat = values.reshape(-1, values.shape[-1])
    usable = np.any(flat != 0, axis=-1) & ~np.any(np.isnan(flat), axis=-1) & (flat.shape[-1] > 1)
    p = np.full(len(flat), np.nan)
    if usable.any() and flat.shape[-1] <= RANKS_EXACT_UP_TO:
        p[usable] = sign_flip_p(_signed_ranks(flat[usable]), np.random.default_rng(0))[0]
    elif usable.any():
        p[usable] = stats.wilcoxon(flat[usable], axis=-1, zero_method="wilcox").pvalue
    return p.reshape(values.shape[:-1])


def _signed_ranks(values: np.ndarray) -> np.ndarray:
    """The ranks of the sizes, each with the sign of its value, [..., n]; zeros have none."""
    zeros = np.sum(values == 0, axis=-1, keepdims=True)
    return np.sign(values) * (stats.rankdata(np.abs(values), axis=-1) - zeros)


@lru_cache(maxsize=8)
def _all_signs(n: int) -> np.ndarray:
    """Half of all sign patterns [2**(n-1), n]; the other half are their mirror images."""
    bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1
    return (1.0 - 2.0 * bits).astype(float)


def sign_flip_p(
    values: np.ndarray, rng: np.random.Generator, permutations: int = 9_999
) -> tuple[np.ndarray, int]:
    """Two-sided sign-flip permutation test of the mean (Fisher 1935), `values` [..., n].

    Returns p and the number of patterns drawn, 0 when all were listed (n up to 16) or none could
    be. A drawn p counts the observed pattern too, so it is never 0.
    """
    values = np.asarray(values, dtype=float)
    n = values.shape[-1]
    shape = values.shape[:-1]
    if n < 2:
        return np.full(shape, np.nan), 0
    flat = values.reshape(-1, n)
    observed = np.abs(flat.sum(-1))
    threshold = observed - 1e-12 * np.maximum(np.abs(flat).sum(-1), 1e-300)
    if n <= EXACT_UP_TO:
        sums = np.abs(flat @ _all_signs(n).T)
        p, drawn = (sums >= threshold[:, None]).mean(-1), 0
    else:
        if permutations == 0:
            return np.full(shape, np.nan), 0
        drawn = max(999, min(permutations, _BUDGET // n))
        extreme = np.zeros(len(flat))
        chunk = max(1, 4_000_000 // n)
        for start in range(0, drawn, chunk):
            size = min(chunk, drawn - start)
            ones = rng.integers(0, 2, (size, n), dtype=np.int8)
            sums = np.abs(2 * (flat @ ones.T.astype(float)) - flat.sum(-1)[:, None])
            extreme += (sums >= threshold[:, None]).sum(-1)
        p = (extreme + 1) / (drawn + 1)
    p = np.where(np.all(flat == 0, axis=-1), np.nan, p)
    return p.reshape(shape), drawn


def cohens_dz(values: np.ndarray) -> float:
    """Mean difference over the standard deviation of the differences; NaN without spread."""
    if len(values) < 2 or no_spread(values):
        return float("nan")
    return float(np.mean(values) / np.std(values, ddof=1))


def rank_biserial(values: np.ndarray) -> float:
    """Matched-pairs rank-biserial correlation (Kerby 2014): from -1 (b always) to 1 (a always)."""
    ranks = _signed_ranks(np.asarray(values, dtype=float))
    total = float(np.abs(ranks).sum())
    return float(ranks.sum()) / total if total else float("nan")


def adjust(p: np.ndarray, method: str) -> np.ndarray:
    """Corrected p-values over the last axis: "holm" (1979), "bh" (1995) or "none". NaN stay NaN
    and do not count as tests made."""
    p = np.asarray(p, dtype=float)
    if method == "none" or p.size == 0:
        return p
    order = np.argsort(p, axis=-1)  # NaN go last
    ranked = np.take_along_axis(p, order, -1)
    made = np.sum(~np.isnan(p), axis=-1, keepdims=True)
    position = np.arange(p.shape[-1])
    if method == "holm":
        adjusted = np.maximum.accumulate(ranked * (made - position), axis=-1)
    elif method == "bh":
        scaled = ranked * made / (position + 1)
        scaled = np.where(np.isnan(scaled), np.inf, scaled)
        adjusted = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    else:
        raise ValueError(f"unknown correction '{method}': holm, bh or none")
    adjusted = np.where(np.isnan(ranked), np.nan, np.minimum(adjusted, 1.0))
    result = np.empty_like(p)
    np.put_along_axis(result, order, adjusted, -1)
    return result
