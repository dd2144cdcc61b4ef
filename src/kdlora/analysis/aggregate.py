"""Averages of many methods over their shared cells: mean, IQM, retention, chance of improvement.

After Agarwal et al. (2021), "Deep RL at the edge of the statistical precipice", with cells kept
paired across methods and intervals that are honest for few cells (see `intervals`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from kdlora.analysis import intervals
from kdlora.analysis.results import Result, Rules, finite
from kdlora.analysis.scores import Selection, usable_runs
from kdlora.analysis.shared_cells import SharedCells


@dataclass(frozen=True)
class Aggregate(Result):
    """One method over shared cells. Intervals resample cells within tasks: they speak of these
    tasks. `task_mean` weighs tasks alike. `retention` is the mean in per cent of the reference's;
    its interval resamples cells, `*_tasks` whole tasks."""

    arm: str
    n_cells: int
    n_tasks: int
    mean: float
    task_mean: float
    iqm: float
    mean_low: float | None = None
    mean_high: float | None = None
    iqm_low: float | None = None
    iqm_high: float | None = None
    retention: float | None = None
    retention_low: float | None = None
    retention_high: float | None = None
    retention_low_tasks: float | None = None
    retention_high_tasks: float | None = None
    cannot: str = ""


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and highest quarter, rounded down."""
    return stats.trim_mean(values, 0.25, axis=axis)


def aggregate(
    shared: SharedCells,
    *,
    rng: np.random.Generator,
    reference: str | None = None,
    rules: Rules | None = None,
) -> tuple[Aggregate, ...]:
    """Mean and IQM of every method with stratified bootstrap intervals, best first.

    `reference` (an arm of the table) adds retention. Empty when there is no table.
    """
    rules = rules or Rules()
    if shared.reason:
        return ()
    values, strata = shared.values, shared.task_codes
    sizes = np.bincount(strata)
    expanded = rules.bootstrap == "expanded"
    bounds = np.full((4, len(shared.arms)), np.nan)
    cannot = ""
    if sizes.max() < 2:
        cannot = "one cell per task: nothing to resample within tasks"
    elif rules.draws:
        drawn = intervals.bootstrap_strata(
            values,
            strata,
            lambda rows: np.stack([rows.mean(1), iqm(rows, axis=1)], axis=1),
            rules.draws,
            rng,
        )
        low, high = intervals.interval(drawn, alpha=rules.alpha, sizes=sizes if expanded else None)
        bounds = np.concatenate([low, high])  # mean low, IQM low, mean high, IQM high
    columns = {
        "mean": values.mean(0),
        "task_mean": shared.means_by("tasks").values.mean(0),
        "iqm": iqm(values),
        **dict(zip(("mean_low", "iqm_low", "mean_high", "iqm_high"), bounds, strict=True)),
    }
    kept = _retention(shared, reference, rules, rng) if reference else None
    if kept is not None:
        columns |= dict(zip(_RETENTION, kept, strict=True))
    why = cannot or _why_no_retention(kept, reference, shared)
    rows = [
        Aggregate(
            arm=arm,
            n_cells=len(values),
            n_tasks=len(sizes),
            cannot=why,
            **{name: finite(column[i]) for name, column in columns.items()},  # type: ignore[arg-type]
        )
        for i, arm in enumerate(shared.arms)
    ]
    return tuple(sorted(rows, key=lambda r: -r.mean))


_RETENTION = (
    "retention",
    "retention_low",
    "retention_high",
    "retention_low_tasks",
    "retention_high_tasks",
)


def _retention(
    shared: SharedCells, reference: str, rules: Rules, rng: np.random.Generator
) -> np.ndarray | None:
    """[5, arms]: ratio of means in per cent, its interval over cells, and over tasks."""
    if reference not in shared.arms:
        return None
    values, codes = shared.values, shared.task_codes
    base = values[:, shared.arms.index(reference)]
    if (base < 0).any() or base.mean() <= 0:
        return None
    result = np.full((5, values.shape[1]), np.nan)
    result[0] = values.mean(0) / base.mean()
    if rules.draws and len(values) > 1:
        expanded = rules.bootstrap == "expanded"
        for row, code in ((1, np.arange(len(values))), (3, codes)):
            units = code.max() + 1
            if units < 2:
                continue
            for i in range(values.shape[1]):
                drawn = intervals.bootstrap_clusters(
                    values[:, i], code, rules.draws, rng, denominator=base
                )
                result[row : row + 2, i] = intervals.interval(
                    drawn, alpha=rules.alpha, sizes=[units] if expanded else None
                )
    return 100 * result


def _why_no_retention(kept: np.ndarray | None, reference: str | None, shared: SharedCells) -> str:
    if reference is None or kept is not None:
        return ""
    if reference not in shared.arms:
        return f"no retention: {reference} is not among the methods compared"
    return f"no retention: {reference} has scores below 0 (or 0 throughout), or less is better"


@dataclass(frozen=True)
class Improvement(Result):
    """Probability that a run of a beats a run of b in the same block, ties counting half."""

    a: str
    b: str
    n_blocks: int
    n_tasks: int
    probability: float | None = None
    low: float | None = None
    high: float | None = None
    cannot: str = ""


def probability_of_improvement(
    frame: pd.DataFrame,
    a: str | Selection,
    b: str | Selection,
    *,
    rng: np.random.Generator,
    score: str = "score",
    rules: Rules | None = None,
) -> Improvement:
    """Mann-Whitney U over n*m in every block of task and pair, averaged over blocks, then tasks.

    Uses all runs of shared blocks, paired or not. The interval resamples tasks.
    """
    rules = rules or Rules()
    usable, _ = usable_runs(frame, score)
    keys = ["task", "pair"]
    sides = []
    for selection in (Selection.parse(a), Selection.parse(b)):
        rows = selection.rows(usable)
        sides.append({k: v.to_numpy() for k, v in rows.groupby(keys, dropna=False)["value"]})
    shared = [key for key in sides[0] if key in sides[1]]
    if not shared:
        return Improvement(str(a), str(b), 0, 0, cannot=f"{a} and {b} share no block")
    wins = [_win_share(sides[0][key], sides[1][key]) for key in shared]
    by_task = pd.Series(wins).groupby([key[0] for key in shared]).mean().to_numpy()
    n_tasks = len(by_task)
    result = Improvement(str(a), str(b), len(shared), n_tasks, float(by_task.mean()))
    if n_tasks < 2:
        return replace(result, cannot="one task: no interval over tasks")
    if not rules.draws:
        return result
    drawn = intervals.bootstrap_mean(by_task, rules.draws, rng)
    sizes = [n_tasks] if rules.bootstrap == "expanded" else None
    low, high = np.clip(intervals.interval(drawn, alpha=rules.alpha, sizes=sizes), 0, 1)
    return replace(result, low=finite(low), high=finite(high))


def _win_share(x: np.ndarray, y: np.ndarray) -> float:
    """P(x > y) + P(x = y) / 2 over all pairs, in O(n log n)."""
    y = np.sort(y)
    below = np.searchsorted(y, x, "left")
    upto = np.searchsorted(y, x, "right")
    return float((below + upto).sum() / 2 / (len(x) * len(y)))
