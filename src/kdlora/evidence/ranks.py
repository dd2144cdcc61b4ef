"""Many methods by rank: Friedman's test, Nemenyi's pairwise one and critical-difference data.

Demšar (2006), "Statistical comparisons of classifiers over multiple data sets". Rows are taken as
independent; blocks of one task are not, so ranks over tasks carry the claim and ranks over blocks
describe these blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kdlora.evidence.aggregates import SharedCells
from kdlora.evidence.result import Result, finite


@dataclass(frozen=True)
class RankPair(Result):
    """Two methods: difference of average ranks (a - b; negative: a is better), Nemenyi's p."""

    a: str
    b: str
    rank_difference: float
    p: float
    significant: bool


@dataclass(frozen=True)
class Ranking(Result):
    """Average ranks (1 is best) with tests. `groups`: methods not told apart, for a CD diagram."""

    level: str
    n: int
    k: int
    average_rank: dict[str, float]
    friedman_chi2: float | None = None
    p_friedman: float | None = None
    iman_davenport_f: float | None = None
    p_iman_davenport: float | None = None
    critical_difference: float | None = None
    alpha: float = 0.05
    pairs: tuple[RankPair, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    tied_rows: int = 0
    notes: tuple[str, ...] = ()
    cannot: str = ""


def rank_methods(shared: SharedCells, *, level: str = "tasks", alpha: float = 0.05) -> Ranking:
    """Rank the arms of a shared table in its rows at `level`: "tasks", "blocks" or "cells".

    Friedman's chi-square is corrected for ties; Iman & Davenport's F is its less conservative form.
    """
    if shared.reason:
        return Ranking(level, 0, len(shared.arms), {}, alpha=alpha, cannot=shared.reason)
    rows = shared.means_by(level)
    values, names = rows.values, rows.arms
    n, k = values.shape
    ranks = stats.rankdata(-_rounded(values), axis=1)
    mean = ranks.mean(0)
    order = np.argsort(mean, kind="stable")
    average = {names[i]: float(mean[i]) for i in order}
    tied = int((np.ptp(ranks, axis=1) == 0).sum())
    notes = []
    if level != "tasks" and len(rows.by_task) < n:
        notes.append(f"{level} of one task are not independent: p-values are too small beyond them")
    cannot = ""
    if k < 3:
        cannot = f"{k} methods: Friedman's test needs 3; compare them in pairs"
    elif n < 3:
        units = level if n != 1 else level.removesuffix("s")
        cannot = f"{n} {units}: too few to rank on"
    elif tied == n:
        cannot = "all methods are tied everywhere: ranks tell nothing"
    if cannot:
        return Ranking(
            level, n, k, average, alpha=alpha, tied_rows=tied, notes=tuple(notes), cannot=cannot
        )
    chi2, p = stats.friedmanchisquare(*_rounded(values).T)
    bottom = n * (k - 1) - chi2
    f = (n - 1) * chi2 / bottom if bottom > 1e-9 * n * k else math.inf
    p_f = float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))) if math.isfinite(f) else 0.0
    error = math.sqrt(k * (k + 1) / (6 * n))
    cd = float(stats.studentized_range.ppf(1 - alpha, k, np.inf) / math.sqrt(2)) * error
    return Ranking(
        level, n, k, average, float(chi2), float(p), finite(f), p_f, cd, alpha,
        _pairs(names, mean, order, k, error, alpha), _groups(names, mean, order, cd),
        tied, tuple(notes),
    )  # fmt: skip


def _rounded(values: np.ndarray) -> np.ndarray:
    """Equal scores must tie although 100 * 0.83 and a mean of it may differ in the last bit."""
    return np.round(values, 9)


def _pairs(
    names: tuple[str, ...], mean: np.ndarray, order: np.ndarray, k: int, error: float, alpha: float
) -> tuple[RankPair, ...]:
    """All pairs, the better method first."""
    pairs = [(i, j) for at, i in enumerate(order) for j in order[at + 1 :]]
    gaps = np.array([mean[i] - mean[j] for i, j in pairs])
    p = stats.studentized_range.sf(np.abs(gaps) / error * math.sqrt(2), k, np.inf)
    return tuple(
        RankPair(names[i], names[j], float(gap), float(q), bool(q < alpha))
        for (i, j), gap, q in zip(pairs, gaps, np.atleast_1d(p), strict=True)
    )


def _groups(
    names: tuple[str, ...], mean: np.ndarray, order: np.ndarray, cd: float
) -> tuple[tuple[str, ...], ...]:
    """Maximal runs of methods whose average ranks differ by less than the critical difference."""
    groups, reached = [], 0
    for at in range(len(order)):
        last = max(j for j in range(at, len(order)) if mean[order[j]] - mean[order[at]] < cd)
        if last > at and last + 1 > reached:
            groups.append(tuple(names[i] for i in order[at : last + 1]))
            reached = last + 1
    return tuple(groups)
