"""Which models have too few cells to stand among those that are averaged over what all share.

A mean over shared cells compares models and not mixes of tasks. But a model with a handful of runs
(another rank on two tasks) would leave all others those few cells. Such a model is shown apart,
against the reference on the cells that the two share; and where the rest share little, all are.
"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from kdlora.vocabulary.arm import Arm

ENOUGH = 0.5  # of the cells of the fullest model of the same role


def cell_counts(cells: pd.DataFrame) -> dict[str, int]:
    """Arm -> in how many cells it has a score. `cells` has arm, pair, task and seed; a value that
    is missing (a result that serves every seed, or every pair) stands for all there are."""
    places = cells[["arm", "pair", "task", "seed"]].drop_duplicates()
    known = places.dropna()
    of_block = known.groupby(["pair", "task"])["seed"].nunique()
    of_task = of_block.groupby(level="task").sum()
    counts = known.groupby("arm").size().to_dict()
    for arm, pair, task, seed in places[places.isna().any(axis=1)].itertuples(index=False):
        if pd.isna(pair):
            n = of_task.get(task, 1)
        else:
            n = of_block.get((pair, task), 1) if pd.isna(seed) else 1
        counts[arm] = counts.get(arm, 0) + int(n)
    return {str(arm): int(n) for arm, n in counts.items()}


def sparse_arms(cells: pd.DataFrame, *, never: Collection[str | None] = ()) -> set[str]:
    """The arms with fewer than half of the cells of the fullest arm of their role.

    Baselines are no measure of others, nor are they measured; `never` names arms that are kept
    whatever they have: the reference.
    """
    counts = {a: n for a, n in cell_counts(cells).items() if not Arm.read(a).is_baseline}
    fullest: dict[str, int] = {}
    for arm, n in counts.items():
        role = Arm.read(arm).role
        fullest[role] = max(fullest.get(role, 0), n)
    return {
        arm
        for arm, n in counts.items()
        if n < ENOUGH * fullest[Arm.read(arm).role] and arm not in never
    }


def too_few(shared: int, cells: pd.DataFrame, arms: Collection[str]) -> bool:
    """Whether `arms` share so few cells that a mean over them would lose more than it compares."""
    counts = cell_counts(cells[cells["arm"].isin(arms)])
    return bool(counts) and shared < ENOUGH * min(counts.values())
