"""Averages of many methods over their shared cells: mean, IQM, retention, chance of improvement.

A mean over all runs of an arm compares task mixes, not arms, when cells are missing. Nor does a
task weigh more for having more seeds: a mean is over the runs of a block, its blocks, then tasks.

After Agarwal et al. (2021), "Deep RL at the edge of the statistical precipice", with cells kept
paired across methods. Two things differ: intervals are honest for few units (see `intervals`), and
the unit of an average over a grid is the seed. A seed has an effect in common to all tasks, so the
cells of a grid are no independent values; their means by seed are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy import stats

from kdlora.evidence import intervals
from kdlora.evidence.estimator import MIN_TASKS, ClusterRobust, Nesting
from kdlora.evidence.pairing import one_side
from kdlora.evidence.result import Result, Rules, finite
from kdlora.evidence.scores import KEYS, Selection, labels, usable_runs
from kdlora.evidence.teacher import gives_shares
from kdlora.records.tidy import StudyFrame, own_name
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.metric import POINTS


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
        return self._codes(["task"])

    @property
    def seed_codes(self) -> np.ndarray:
        """[cells]; of cells that are told apart by no seed, one for all."""
        return self._codes([k for k in self.keys if k == "seed"])

    def holds(self, pairs: Sequence[str]) -> bool:
        """Whether cells of all these pairs are shared."""
        if "pair" not in self.keys:
            return True
        return set(pairs) <= set(self.table.index.get_level_values("pair"))

    @property
    def block_codes(self) -> np.ndarray:
        """[cells] of one block differ in the seed alone."""
        return self._codes([k for k in self.keys if k != "seed"])

    @property
    def weights(self) -> np.ndarray:
        """[cells] in the mean over tasks, as `Nesting` has it; they sum to 1."""
        task, block = self.task_codes, self.block_codes
        order = np.lexsort((block, task))
        nesting = Nesting.of(task[order], block[order])
        found = np.empty(len(order))
        found[order] = nesting.weights() / nesting.n_tasks
        return found

    @property
    def uneven(self) -> bool:
        """Whether a mean over the cells would weigh some task more than another."""
        return not self.reason and bool(np.ptp(self.weights) > 1e-12)

    @property
    def seed_df(self) -> float:
        """Degrees of freedom of the spread over seeds of that mean: fewer than the seeds less one
        where some seeds carry more of it than others."""
        return ClusterRobust.of(self.weights, self.block_codes, self.seed_codes).df

    def _codes(self, keys: list[str]) -> np.ndarray:
        if not keys:
            return np.zeros(len(self.table), int)
        index = self.table.index.to_frame(index=False)
        return pd.factorize(pd.Series(labels(index, keys)))[0]

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
    frame: StudyFrame | pd.DataFrame,
    arms: Sequence[str | Selection] | None = None,
    *,
    keys: Sequence[str] = KEYS,
    score: str = "score",
) -> SharedCells:
    """Scores of `arms` (names, patterns or selections; default all) on the cells all of them have.

    Tasks in another unit than points are left out. Raises InputError for missing columns.
    """
    study = StudyFrame.of(frame)
    return study.once(
        ("shared", score, None if arms is None else tuple(map(str, arms)), tuple(keys)),
        lambda: shared_usable(*usable_runs(study, score), arms, keys=keys),
    )


def shared_usable(
    usable: pd.DataFrame,
    notes: Sequence[str],
    arms: Sequence[str | Selection] | None = None,
    *,
    keys: Sequence[str] = KEYS,
) -> SharedCells:
    """`shared_cells` on what `usable_runs` returned (or any frame with `value` and `unit`)."""
    notes = list(notes)
    keys = tuple(map(own_name, keys))
    arms = sorted(map(str, usable["arm"].unique())) if arms is None else arms
    chosen = [Selection.parse(a) for a in arms]
    names = tuple(str(s) for s in chosen)
    unit = POINTS if (usable["unit"] == POINTS).any() or usable.empty else usable["unit"].iloc[0]
    other = usable["unit"] != unit
    if other.any():
        tasks = ", ".join(sorted(usable.loc[other, "task"].astype(str).unique()))
        notes.append(f"{tasks}: scored in another unit than {unit}, so left out")
        usable = usable[~other]
    rows = _single_runs(usable, chosen, keys)
    rows = _sides(usable, chosen, keys, notes) if rows is None else rows
    found = set(rows["arm"])
    empty = [name for name in names if name not in found]

    def none(reason: str, cost: dict[str, int]) -> SharedCells:
        table = pd.DataFrame(columns=list(names), dtype=float)
        return SharedCells(keys, names, unit, 0, {}, cost, tuple(notes), reason, table)

    if len(names) < 2:
        return none(f"{len(names)} arm: nothing to compare it with", {})
    if empty:
        return none(f"no finished run of {', '.join(empty)}", {})
    wide = _spread(rows, list(dict.fromkeys(names)), keys)
    absent = wide.isna().to_numpy()
    complete = ~absent.any(axis=1)
    alone = absent[absent.sum(axis=1) == 1].sum(axis=0)  # cells that lack this arm and no other
    cost = {str(name): int(lost) for name, lost in zip(wide, alone, strict=True)}
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
    table = wide.iloc[np.flatnonzero(complete)]
    table = table.iloc[np.argsort(np.array(_sort_key(table.index, keys)), kind="stable")]
    return SharedCells(keys, names, unit, len(table), _counts(table), cost, tuple(notes), "", table)


def _single_runs(
    usable: pd.DataFrame, chosen: Sequence[Selection], keys: tuple[str, ...]
) -> pd.DataFrame | None:
    """What `_sides` gives, at once, where all are plain arms with one run a cell; else None."""
    arms = [selection.arm for selection in chosen]
    if any(s.where for s in chosen) or not set(arms) <= set(usable["arm"]):
        return None
    rows = usable.loc[usable["arm"].isin(arms), [*keys, "arm", "value", "run_id"]]
    rows = rows.drop_duplicates([*keys, "arm", "run_id"])
    return None if rows.duplicated([*keys, "arm"]).any() else rows


def _sides(
    usable: pd.DataFrame, chosen: Sequence[Selection], keys: tuple[str, ...], notes: list[str]
) -> pd.DataFrame:
    """The scores of every selection by cell, one below the other: `arm` names the selection."""
    found = {str(s): one_side(s, usable, keys, notes) for s in chosen}
    parts = [
        side.rename(columns={"score": "value"})[[*keys, "value"]].assign(arm=name)
        for name, side in found.items()
        if len(side)
    ]
    return pd.concat(parts) if parts else pd.DataFrame(columns=[*keys, "value", "arm"])


def _spread(rows: pd.DataFrame, arms: list[str], keys: tuple[str, ...]) -> pd.DataFrame:
    """One column an arm. Arms without a value for a key (no seed) serve every value of it."""
    lacking = set(rows.loc[rows[list(keys)].isna().any(axis=1), "arm"])
    whole = [arm for arm in arms if arm not in lacking]
    beside = [arm for arm in arms if arm in lacking] if whole else []
    inside = rows[rows["arm"].isin(whole or arms)]
    cell = inside.groupby(list(keys), sort=False, dropna=False).ngroup().to_numpy()
    of_arm = {arm: i for i, arm in enumerate(arms)}
    values = np.full((cell.max() + 1, len(arms)), np.nan)
    values[cell, [of_arm[arm] for arm in inside["arm"]]] = inside["value"]
    first = np.unique(cell, return_index=True)[1]
    places = inside[list(keys)].iloc[first]
    index = pd.MultiIndex.from_frame(places) if len(keys) > 1 else pd.Index(places[keys[0]])
    wide = pd.DataFrame(values, columns=arms, index=index)
    for arm in beside:
        column = rows[rows["arm"] == arm]
        known = [k for k in keys if column[k].notna().all()]
        short = column.groupby(known)["value"].mean()
        unknown = [k for k in keys if k not in known]
        wide[arm] = short.reindex(index.droplevel(unknown)).to_numpy()
    return wide


def _sort_key(index: pd.Index, keys: tuple[str, ...]) -> list[str]:
    return labels(index.to_frame(index=False), ("task", *(k for k in keys if k != "task")))


def _counts(table: pd.DataFrame) -> dict[str, int]:
    tasks = table.index.get_level_values("task").astype(str)
    return {str(k): int(v) for k, v in pd.Series(tasks).value_counts(sort=False).items()}


@dataclass(frozen=True)
class Aggregate(Result):
    """One method over shared cells, with intervals over the seeds in `over_seeds`.

    They say what other seeds would give on these tasks and pairs, with the same texts. `mean` and
    `retention` weigh tasks alike; `iqm` is over the cells, as it is defined. `reference_mean` is
    over the same cells. `retention` is the mean in per cent of the reference's, over the cells of
    the `share_tasks` of which a share is told (`teacher.gives_shares`); its `*_tasks` interval
    takes the tasks as the sample. `cannot`: why an interval or a share is not there.
    """

    arm: str
    n_cells: int
    n_tasks: int
    mean: float
    iqm: float
    reference_mean: float | None = None
    over_seeds: int = 0
    mean_low: float | None = None
    mean_high: float | None = None
    iqm_low: float | None = None
    iqm_high: float | None = None
    retention: float | None = None
    retention_low: float | None = None
    retention_high: float | None = None
    retention_low_tasks: float | None = None
    retention_high_tasks: float | None = None
    share_tasks: int = 0
    cannot: str = ""

    @property
    def share_interval(self) -> tuple[str, float | None, float | None]:
        """The widest claim that can be made of the share: what its interval is over, and its ends.

        Over tasks where there are enough of them, else over seeds, else over nothing.
        """
        if self.retention_low_tasks is not None:
            return "tasks", self.retention_low_tasks, self.retention_high_tasks
        over = "seeds" if self.retention_low is not None else ""
        return over, self.retention_low, self.retention_high


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and highest quarter, rounded down."""
    return stats.trim_mean(values, 0.25, axis=axis)


def aggregate(
    shared: SharedCells,
    *,
    rng: np.random.Generator,
    reference: str | None = None,
    floor: pd.Series | None = None,
    rules: Rules | None = None,
) -> tuple[Aggregate, ...]:
    """Mean and IQM of every method with their intervals, best first; empty without a table.

    `reference` (an arm of the table) adds retention; `floor` [cells] is then the score of the
    majority baseline, NaN where it is not known. Rules that ask for plain percentiles get the
    bootstrap of cells within tasks that is customary, and too narrow.
    """
    rules = rules or Rules()
    if shared.reason:
        return ()
    values = shared.values
    means, middles = shared.weights @ values, iqm(values)
    told = _with_shares(shared, reference, floor)
    columns: dict[str, np.ndarray] = {
        "mean": means, "iqm": middles,
        **({"reference_mean": np.full(len(means), means[shared.arms.index(reference)])}
           if reference in shared.arms else {}),
    }  # fmt: skip
    left, cannot = _without_each_seed(shared)
    if rules.bootstrap == "percentile":
        cannot = ""
        columns |= _percentiles(shared, rules, rng)
    elif len(left):
        most = 100.0 if shared.unit == POINTS else np.inf
        columns |= _ends("mean", means, shared.weights @ left, rules, most, shared.seed_df)
        columns |= _ends("iqm", middles, iqm(left, axis=1), rules, most)
    if told is not None and reference is not None:
        columns |= _retention(told, reference, rules, rng)
    why = "; ".join(filter(None, (cannot, _why_no_retention(told, reference, shared))))
    rows = [
        Aggregate(
            arm=arm,
            n_cells=len(values),
            n_tasks=len(shared.by_task),
            over_seeds=len(left),
            share_tasks=0 if told is None else len(told.by_task),
            cannot=why,
            **{name: finite(column[i]) for name, column in columns.items()},  # type: ignore[arg-type]
        )
        for i, arm in enumerate(shared.arms)
    ]
    return tuple(sorted(rows, key=lambda r: -r.mean))


def _without_each_seed(shared: SharedCells) -> tuple[np.ndarray, str]:
    """Scores [seeds, cells, arms] with the cells of one seed replaced by what the other seeds of
    their blocks give on average; none, and the reason, where seeds tell no interval.

    So every block keeps its weight whatever seeds it has, and in a complete grid the mean of a
    seed's cells is the unit. A block of k of the n seeds moves by less: n jackknife values, of
    which k vary, would make k (n - 1) / (n (k - 1)) of the variance of its mean.
    """
    values, seeds, blocks = shared.values, shared.seed_codes, shared.block_codes
    n, none = int(seeds.max()) + 1, np.empty((0, *values.shape))
    if n < intervals.LEAST:
        what = f"{n} seed{'s' * (n != 1)}" if "seed" in shared.keys else "seeds are averaged"
        return none, f"{what}: an interval over seeds needs at least {intervals.LEAST}"
    sizes = np.bincount(blocks)
    single = int((sizes < 2).sum())
    if single:
        return none, (
            f"{single} of {len(sizes)} blocks have one seed, so how much they vary over seeds is "
            "unknown"
        )
    sums = np.stack([np.bincount(blocks, weights=column) for column in values.T], axis=1)
    others = (sums[blocks] - values) / (sizes[blocks] - 1)[:, None]
    step = np.sqrt(n * (sizes - 1) / (sizes * (n - 1)))[blocks][:, None]
    moved = step * others + (1 - step) * values
    return np.stack([np.where((seeds == s)[:, None], moved, values) for s in range(n)]), ""


def _ends(
    name: str,
    whole: np.ndarray,
    without: np.ndarray,
    rules: Rules,
    most: float,
    df: float | None = None,
) -> dict[str, np.ndarray]:
    low, high = intervals.jackknife(whole, without, alpha=rules.alpha, df=df)
    return {f"{name}_low": low, f"{name}_high": np.minimum(high, most)}


def _shares(
    kept: np.ndarray,
    without: np.ndarray,
    rules: Rules,
    suffix: str = "",
    df: float | None = None,
) -> dict[str, np.ndarray]:
    """The interval of shares, in per cent, from the log scale."""
    with np.errstate(all="ignore"):
        low, high = intervals.jackknife(np.log(kept), np.log(without), alpha=rules.alpha, df=df)
    bounds = {"retention_low": 100 * np.exp(low), "retention_high": 100 * np.exp(high)}
    return {f"{name}{suffix}": bound for name, bound in bounds.items()}


def _with_shares(
    shared: SharedCells, reference: str | None, floor: pd.Series | None
) -> SharedCells | None:
    """The cells of the tasks of which a share of the reference is told; None without any."""
    if reference not in shared.arms or shared.unit != POINTS:
        return None
    least = np.full(len(shared.table), np.nan) if floor is None else floor.to_numpy(float)
    told = gives_shares(
        shared.table[reference].to_numpy(float), least, shared.task_codes, unit=100.0
    )
    if not told.any():
        return None
    table = shared.table[told]
    return replace(shared, n_cells=len(table), by_task=_counts(table), table=table)


def _retention(
    told: SharedCells, reference: str, rules: Rules, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Ratios of means [arms] in per cent, with their intervals."""
    values, at, weights = told.values, told.arms.index(reference), told.weights

    def ratios(of: np.ndarray, weights: np.ndarray = weights) -> np.ndarray:
        """[..., cells, arms] -> [..., arms]"""
        means = weights @ of
        with np.errstate(all="ignore"):
            return means / means[..., at, None]

    kept = ratios(values)
    columns = {"retention": 100 * kept}
    if rules.bootstrap == "percentile":
        columns |= _percentile_shares(weights[:, None] * values, at, rules, rng)
    elif len(left := _without_each_seed(told)[0]):
        columns |= _shares(kept, ratios(left), rules, df=told.seed_df)
    if len(told.by_task) >= MIN_TASKS:
        tasks = told.task_codes
        others = [tasks != task for task in np.unique(tasks)]
        without = np.stack([ratios(values[own], weights[own]) for own in others])
        columns |= _shares(kept, without, rules, "_tasks")
    return columns


def _percentiles(
    shared: SharedCells, rules: Rules, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The customary intervals: cells resampled within tasks."""
    values = shared.values
    if len(values) < 2 or not rules.draws:
        return {}

    def drawn_means(rows: np.ndarray) -> np.ndarray:
        """A cell takes its weight, the last column, along."""
        rows, weights = rows[..., :-1], rows[..., -1:]
        return np.stack([(weights * rows).sum(1) / weights.sum(1), iqm(rows, axis=1)], axis=1)

    drawn = intervals.bootstrap_strata(
        np.column_stack([values, shared.weights]),
        shared.task_codes,
        drawn_means,
        rules.draws,
        rng,
    )
    low, high = intervals.interval(drawn, alpha=rules.alpha)
    found = dict(zip(("mean_low", "iqm_low"), low, strict=True))
    return found | dict(zip(("mean_high", "iqm_high"), high, strict=True))


def _percentile_shares(
    values: np.ndarray, at: int, rules: Rules, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The customary intervals of shares: all cells resampled."""
    if len(values) < 2 or not rules.draws:
        return {}
    cells = np.arange(len(values))
    ends = [
        intervals.interval(
            intervals.bootstrap_clusters(
                column, cells, rules.draws, rng, denominator=values[:, at]
            ),
            alpha=rules.alpha,
        )
        for column in values.T
    ]
    return {
        "retention_low": 100 * np.array([low for low, _ in ends]),
        "retention_high": 100 * np.array([high for _, high in ends]),
    }


def _why_no_retention(told: SharedCells | None, reference: str | None, shared: SharedCells) -> str:
    if reference is None or told is not None:
        return ""
    named = Arm.read(reference).phrase()
    if reference not in shared.arms:
        return f"no retention: {named} is not among the methods compared"
    if shared.unit != POINTS:
        return "no retention: the scores are not in points"
    return (
        f"no retention: {named} is on no task clearly above the majority baseline (above 0 where "
        "that is not known), or less is better"
    )


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
    frame: StudyFrame | pd.DataFrame,
    a: str | Selection,
    b: str | Selection,
    *,
    rng: np.random.Generator,
    score: str = "score",
    rules: Rules | None = None,
) -> Improvement:
    """Mann-Whitney U over n*m in every block of task and pair, averaged over blocks, then tasks.

    Uses all runs of shared blocks, paired or not. The units of the interval are tasks.
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
    if n_tasks < intervals.LEAST:
        why = f"an interval over tasks needs at least {intervals.LEAST}"
        return replace(result, cannot=f"{n_tasks} task{'s' * (n_tasks != 1)}: {why}")
    low, high = intervals.of_mean(by_task, rules, rng)
    if low is None or high is None:
        return result
    return replace(result, low=max(low, 0.0), high=min(high, 1.0))


def _win_share(x: np.ndarray, y: np.ndarray) -> float:
    """P(x > y) + P(x = y) / 2 over all pairs, in O(n log n)."""
    y = np.sort(y)
    below = np.searchsorted(y, x, "left")
    upto = np.searchsorted(y, x, "right")
    return float((below + upto).sum() / 2 / (len(x) * len(y)))
