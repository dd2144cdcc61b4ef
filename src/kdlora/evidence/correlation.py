"""Does cost go with score? Asked within tasks: across them it tells only which tasks are big."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlora.evidence import intervals
from kdlora.evidence.result import Result, Rules, finite
from kdlora.evidence.scores import numbers, usable_runs
from kdlora.records.tidy import StudyFrame, own_name


@dataclass(frozen=True)
class Correlation(Result):
    """Correlation of a column with the score (turned so that more is better).

    `pooled*` ignore what task a run is from and are shown for contrast; `within*` compare runs of
    the same group (`within`) only. The interval of `within` resamples tasks.
    """

    column: str
    within: tuple[str, ...]
    n_runs: int
    n_groups: int
    pooled: float | None = None
    pooled_spearman: float | None = None
    within_pearson: float | None = None
    within_spearman: float | None = None
    low: float | None = None
    high: float | None = None
    cannot: str = ""


def correlate(
    frame: StudyFrame | pd.DataFrame,
    columns: Sequence[str],
    *,
    rng: np.random.Generator,
    within: Sequence[str] = ("task",),
    score: str = "score",
    rules: Rules | None = None,
) -> tuple[Correlation, ...]:
    """Pearson's and Spearman's correlations of `columns` with the score."""
    rules = rules or Rules()
    usable, _ = usable_runs(frame, score)
    within = tuple(map(own_name, within))
    return tuple(_one(usable, column, within, rules, rng) for column in columns)


def _one(
    usable: pd.DataFrame,
    column: str,
    within: tuple[str, ...],
    rules: Rules,
    rng: np.random.Generator,
) -> Correlation:
    if column not in usable:
        return Correlation(column, within, 0, 0, cannot=f"no column '{column}'")
    x = numbers(usable[column])
    rows = usable[np.isfinite(x)].assign(x=x[np.isfinite(x)])
    groups = rows.groupby(list(within), dropna=False).ngroup().to_numpy()
    n_groups = len(np.unique(groups))
    if len(rows) < 3:
        return Correlation(column, within, len(rows), n_groups, cannot="fewer than three runs")
    x, y = rows["x"].to_numpy(float), rows["value"].to_numpy(float)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        what = column if np.ptp(x) == 0 else "the score"
        return Correlation(column, within, len(rows), n_groups, cannot=f"{what} does not vary")
    rank_x, rank_y = (pd.Series(v).rank().to_numpy() for v in (x, y))
    inner_x, inner_y = (pd.Series(v).groupby(groups).rank().to_numpy() for v in (x, y))
    low = high = None
    tasks = pd.factorize(rows["task"].astype(str))[0]
    value = _within(x, y, groups)
    if tasks.max() > 0 and rules.draws and value is not None:
        low, high = _interval(x, y, groups, tasks, rules, rng)
    return Correlation(
        column, within, len(rows), n_groups,
        float(np.corrcoef(x, y)[0, 1]), float(np.corrcoef(rank_x, rank_y)[0, 1]),
        value, _within(inner_x, inner_y, groups), low, high,
        "" if value is not None else f"{column} or the score does not vary within {within}",
    )  # fmt: skip


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    means = np.bincount(groups, weights=values) / np.maximum(np.bincount(groups), 1)
    return values - means[groups]


def _within(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> float | None:
    """Pearson's correlation of what is left after the group means."""
    dx, dy = _centred(x, groups), _centred(y, groups)
    if np.abs(dx).max() <= 1e-12 * np.abs(x).max() or np.abs(dy).max() <= 1e-12 * np.abs(y).max():
        return None
    return float(dx @ dy / np.sqrt((dx @ dx) * (dy @ dy)))


def _interval(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    tasks: np.ndarray,
    rules: Rules,
    rng: np.random.Generator,
) -> tuple[float | None, float | None]:
    dx, dy = _centred(x, groups), _centred(y, groups)
    xy, xx, yy = (np.bincount(tasks, weights=w) for w in (dx * dy, dx * dx, dy * dy))
    parts = []
    for i in intervals.resample(len(xy), rules.draws, rng):
        with np.errstate(all="ignore"):
            parts.append(xy[i].sum(1) / np.sqrt(xx[i].sum(1) * yy[i].sum(1)))
    drawn = np.concatenate(parts)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 100:
        return None, None
    sizes = [len(xy)] if rules.bootstrap == "expanded" else None
    low, high = intervals.interval(drawn, alpha=rules.alpha, sizes=sizes)
    return finite(low), finite(high)
