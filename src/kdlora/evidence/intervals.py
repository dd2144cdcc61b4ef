"""Intervals: Student's over few units, the bootstrap (Efron 1979) over many. In bounded memory.

A unit is what was sampled: a run, a seed, a whole task. Percentile intervals of few units are too
narrow: of 9 tasks a nominal 95 % covers about 90 %. `interval` can expand the percentiles for that
(Hesterberg 2015, "What teachers should know about the bootstrap", section 5.3): exact for the mean
of normal data, close to it elsewhere. No expansion helps below `FEW` units, whose resamples are a
handful of values (95 % of 3 units cover 78 %): there it is Student's t, and nothing below `LEAST`.
A stratum of one unit has an unknown spread, not none: it leaves no interval.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from kdlora.evidence.result import Rules, finite

FEW = 6  # units from which the bootstrap is used
LEAST = 3  # units; two give one degree of freedom, and an interval that says nothing
_CHUNK = 4_000_000  # numbers held at once
_BUDGET = 400_000_000  # numbers drawn at most in one call


def affordable(draws: int, size: int) -> int:
    """Fewer draws (never under 1,000) where a sample is so large that 10,000 would take minutes."""
    return min(draws, max(1_000, _BUDGET // max(size, 1)))


def stream(rng: np.random.Generator, *names: object) -> np.random.Generator:
    """A generator of its own for what is named: its draws hang on the seed of `rng` and the names
    alone, so that what else is drawn, before it or beside it, changes nothing."""
    seeds = rng.bit_generator.seed_seq
    key = [zlib.crc32(str(name).encode()) for name in names]
    known = getattr(seeds, "spawn_key", ())
    entropy = getattr(seeds, "entropy", None)
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(*known, *key)))


def resample(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices [k, n] of resamples with replacement, in chunks that sum to `draws` rows."""
    chunk = max(1, _CHUNK // max(n, 1))
    for start in range(0, draws, chunk):
        yield rng.integers(0, n, (min(chunk, draws - start), n), dtype=np.int32)


def of_share(right: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """The interval of a share, `right` of `n` (Wilson 1927): within 0 and 1, also for 0 and n."""
    z = float(stats.norm.isf(alpha / 2))
    centre = (right + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(right * (n - right) / n + z**2 / 4)
    return (0.0 if right == 0 else centre - half), (1.0 if right == n else centre + half)


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
    divides by n where the variance needs n - 1, and uses the normal where t is due. NaN where a
    stratum has a single unit, or all of them fewer than `FEW` units to spare.
    """
    tail = alpha / 2
    if sizes is not None:
        units = np.asarray(sizes, dtype=float)
        df = (units - 1).sum()
        if units.min() < 2 or df < FEW - 1:
            nan = np.full(draws.shape[1:], np.nan)
            return nan, nan
        factor = math.sqrt(np.mean(units / (units - 1))) * stats.t.ppf(1 - tail, df)
        tail = float(stats.norm.sf(factor))
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def student(
    values: np.ndarray, *, alpha: float = 0.05, df: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval of the mean of `values` [n, ...] over the first axis, with n - 1 degrees
    of freedom unless `df` says that the units are uneven.

    NaN for fewer than `LEAST` values and where they do not vary, which is no proof that they
    cannot.
    """
    values = np.asarray(values, dtype=float)
    n, mean = len(values), values.mean(0)
    if n < LEAST:
        return np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    error = values.std(0, ddof=1) / math.sqrt(n)
    half = np.where(
        error > np.maximum(1e-12 * np.abs(mean), 1e-13),
        stats.t.ppf(1 - alpha / 2, n - 1 if df is None else df) * error,
        np.nan,
    )
    return mean - half, mean + half


def jackknife(
    whole: np.ndarray, without: np.ndarray, *, alpha: float = 0.05, df: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval of a statistic from its values without each unit (Tukey 1958).

    `whole` [...] is the statistic, `without` [n, ...] what it is when a unit is left out. Exact for
    a mean: the pseudo-values are then the units themselves. The interval is centred on `whole`.
    """
    n = len(without)
    pseudo = n * whole[None] - (n - 1) * without
    low, high = student(pseudo, alpha=alpha, df=df)
    shift = whole - pseudo.mean(0)
    return low + shift, high + shift


def of_mean(
    values: np.ndarray, rules: Rules, rng: np.random.Generator
) -> tuple[float | None, float | None]:
    """The interval of the mean of independent `values` [n]; None where there is none to give."""
    return of_clusters(values, np.arange(len(values)), rules, rng)


def of_clusters(
    values: np.ndarray, clusters: np.ndarray, rules: Rules, rng: np.random.Generator
) -> tuple[float | None, float | None]:
    """The interval of the mean of `values` [n] whose units are whole clusters (codes [n])."""
    values = np.asarray(values, dtype=float)
    units = len(np.unique(clusters))
    if rules.bootstrap == "expanded" and units < FEW:
        top = np.bincount(clusters, weights=values)
        bottom = np.bincount(clusters)
        top, bottom = top[bottom > 0], bottom[bottom > 0]
        if units < LEAST:
            return None, None
        without = (top.sum() - top) / (bottom.sum() - bottom)
        low, high = jackknife(np.asarray(values.mean()), without, alpha=rules.alpha)
        return finite(low), finite(high)
    if units < 2 or not rules.draws or np.ptp(values) == 0:
        return None, None
    drawn = bootstrap_clusters(values, clusters, rules.draws, rng)
    sizes = [units] if rules.bootstrap == "expanded" else None
    low, high = interval(drawn, alpha=rules.alpha, sizes=sizes)
    return finite(low), finite(high)
