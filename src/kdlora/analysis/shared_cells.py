"""The table of many methods: scores on the cells that all of them have, and only those.

A mean over all runs of an arm compares task mixes, not arms, when cells are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kdlora.analysis.pairing import one_side
from kdlora.analysis.results import Result
from kdlora.analysis.scores import KEYS, POINTS, Selection, labels, usable_runs


@dataclass(frozen=True)
class SharedCells(Result):
    """`table` [cells, arms] in `unit`, indexed by `keys`, sorted by task and block.

    `cost` says for every arm how many more cells would be shared without it. `reason` is why there
    is no table, when there is none.
    """

    keys: tuple[str, ...]
    arms: tuple[str, ...]
    unit: str
    n_cells: int
    by_task: dict[str, int]
    cost: dict[str, int]
    notes: tuple[str, ...]
    reason: str
    table: pd.DataFrame = field(repr=False, compare=False)

    @property
    def values(self) -> np.ndarray:
        """[cells, arms]"""
        return self.table.to_numpy(float)

    @property
    def task_codes(self) -> np.ndarray:
        """[cells]"""
        return pd.factorize(self.table.index.get_level_values("task").astype(str))[0]

    def means_by(self, level: str) -> SharedCells:
        """The same table with one row per block (keys without seed) or per task.

        Task rows are means of block rows, so an encoder pair weighs the same in every task.
        """
        if self.reason or level == "cells":
            return self
        keys = tuple(k for k in self.keys if k != "seed")
        table = self.table.groupby(level=list(keys), sort=False).mean()
        if level == "tasks":
            keys = ("task",)
            table = table.groupby(level="task", sort=False).mean()
        elif level != "blocks":
            raise ValueError(f"unknown level '{level}': cells, blocks or tasks")
        return SharedCells(
            keys, self.arms, self.unit, len(table), _counts(table), self.cost, self.notes, "", table
        )


def shared_cells(
    frame: pd.DataFrame,
    arms: Sequence[str | Selection] | None = None,
    *,
    keys: Sequence[str] = KEYS,
    score: str = "score",
) -> SharedCells:
    """Scores of `arms` (names, patterns or selections; default all) on the cells all of them have.

    Tasks in another unit than points are left out. Raises InputError for missing columns.
    """
    usable, notes = usable_runs(frame, score)
    return shared_usable(usable, notes, arms, keys=keys)


def shared_usable(
    usable: pd.DataFrame,
    notes: Sequence[str],
    arms: Sequence[str | Selection] | None = None,
    *,
    keys: Sequence[str] = KEYS,
) -> SharedCells:
    """`shared_cells` on what `usable_runs` returned (or any frame with `value` and `unit`)."""
    notes = list(notes)
    keys = tuple("pair" if k == "family" else k for k in keys)
    chosen = [Selection.parse(a) for a in (arms or sorted(map(str, usable["arm"].unique())))]
    names = tuple(str(s) for s in chosen)
    unit = POINTS if (usable["unit"] == POINTS).any() or usable.empty else usable["unit"].iloc[0]
    other = usable["unit"] != unit
    if other.any():
        tasks = ", ".join(sorted(usable.loc[other, "task"].astype(str).unique()))
        notes.append(f"{tasks}: scored in another unit than {unit}, so left out")
        usable = usable[~other]
    columns = {}
    for selection in chosen:
        side = one_side(selection, usable, keys, notes)
        columns[str(selection)] = side.set_index(list(keys))["score"] if len(side) else None
    empty = [name for name, column in columns.items() if column is None]

    def none(reason: str, cost: dict[str, int]) -> SharedCells:
        table = pd.DataFrame(columns=list(names), dtype=float)
        return SharedCells(keys, names, unit, 0, {}, cost, tuple(notes), reason, table)

    if len(names) < 2:
        return none(f"{len(names)} arm: nothing to compare it with", {})
    if empty:
        return none(f"no finished run of {', '.join(empty)}", {})
    wide = _spread(columns, keys)
    present = wide.notna()
    complete = present.all(axis=1)
    lacking = (~present).sum(axis=1)
    cost = {name: int(((lacking == 1) & ~present[name]).sum()) for name in names}
    if not complete.any():
        worst = max(cost, key=lambda name: cost[name])
        hint = f"; without {worst} there would be {cost[worst]}" if cost[worst] else ""
        return none(f"no cell has all {len(names)} arms{hint}", cost)
    left_out = int((~complete).sum())
    if left_out:
        notes.append(f"{left_out} cells that lack an arm are left out")
    worst = max(cost, key=lambda name: cost[name])
    if cost[worst] > complete.sum() / 2:
        notes.append(f"without {worst} there would be {cost[worst]} cells more")
    table = wide[complete]
    table = table.iloc[np.argsort(np.array(_sort_key(table.index, keys)), kind="stable")]
    return SharedCells(keys, names, unit, len(table), _counts(table), cost, tuple(notes), "", table)


def _spread(columns: dict[str, pd.Series | None], keys: tuple[str, ...]) -> pd.DataFrame:
    """One column an arm. Arms without a value for a key (no seed) serve every value of it."""
    given = {name: column for name, column in columns.items() if column is not None}
    whole = {n: c for n, c in given.items() if not c.index.to_frame().isna().any(axis=None)}
    wide = pd.concat(whole, axis=1) if whole else pd.DataFrame()
    for name, column in given.items():
        if name in whole or wide.empty:
            continue
        known = [k for k in keys if column.index.get_level_values(k).notna().all()]
        short = column.groupby(level=known).mean()
        unknown: list = [k for k in keys if k not in known]
        places = wide.index.droplevel(unknown)
        wide[name] = short.reindex(places).to_numpy()
    if not whole:
        wide = pd.concat(given, axis=1)
    wide.index.names = list(keys)
    return wide[list(columns)]


def _sort_key(index: pd.Index, keys: tuple[str, ...]) -> list[str]:
    return labels(index.to_frame(index=False), ("task", *(k for k in keys if k != "task")))


def _counts(table: pd.DataFrame) -> dict[str, int]:
    tasks = table.index.get_level_values("task").astype(str)
    return {str(k): int(v) for k, v in pd.Series(tasks).value_counts(sort=False).items()}
