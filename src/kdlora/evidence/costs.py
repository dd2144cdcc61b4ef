"""What an arm costs against another: geometric mean ratios over matched runs, never pooled means.

A ratio of pooled means weighs big tasks most and mixes unlike cells; hardware, batch size and
sequence length must be the same on both sides, or named as different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kdlora.errors import InputError, did_you_mean
from kdlora.evidence import intervals
from kdlora.evidence.aggregates import SharedCells, shared_cells, shared_usable
from kdlora.evidence.pairing import Matched, match_usable
from kdlora.evidence.result import Result, Rules, finite
from kdlora.evidence.scores import KEYS, Selection, finished_runs, usable_runs
from kdlora.records.tidy import StudyFrame, own_name

# Differences in these make a cost ratio speak of the setting, not of the arm.
SETTINGS = (
    "device", "devices", "n_gpus", "n_gpus_inferred", "batch_size", "effective_batch",
    "max_length", "tokens", "seq_len_inferred", "precision",
)  # fmt: skip


@dataclass(frozen=True)
class Ratio(Result):
    """Geometric mean of `column` of a over b, over matched runs. `factor` = 1/ratio (b over a),
    `reduction_percent` = 100 (1 - ratio). The interval is over tasks (or over matched runs, with
    few tasks), on the log scale; where all matched runs have the same ratio it is that ratio.
    `unlike` counts matched runs whose settings differ, by setting."""

    a: str
    b: str
    column: str
    n_pairs: int
    n_tasks: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    factor: float | None = None
    reduction_percent: float | None = None
    resampled: str = ""
    same: tuple[str, ...] = ()
    unlike: dict[str, int] | None = None
    notes: tuple[str, ...] = ()
    cannot: str = ""


def positive_runs(
    frame: StudyFrame | pd.DataFrame, column: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Finished runs with `value` = log of a positive `column`. Raises InputError if absent."""
    study = StudyFrame.of(frame)
    return study.once(("positive", column), lambda: _positive(study, column))


def _positive(study: StudyFrame, column: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    usable, found = finished_runs(study, column)
    notes = list(found)
    positive = usable["value"] > 0
    if not positive.all():
        notes.append(f"{int((~positive).sum())} runs have {column} of 0 or less: left out")
    usable = usable[positive].copy()
    usable["value"] = np.log(usable["value"])
    usable["unit"], usable["metric"] = "log", column
    return usable, tuple(notes)


def shared_costs(
    frame: StudyFrame | pd.DataFrame,
    column: str,
    arms: Sequence[str | Selection],
    *,
    keys: Sequence[str] = KEYS,
) -> SharedCells:
    """As `shared_cells` for the logs of a positive `column`."""
    study = StudyFrame.of(frame)
    return study.once(
        ("shared costs", column, tuple(map(str, arms)), tuple(keys)),
        lambda: shared_usable(*positive_runs(study, column), arms, keys=keys),
    )


def cost_ratio(
    frame: StudyFrame | pd.DataFrame,
    a: str | Selection,
    b: str | Selection,
    column: str,
    *,
    rng: np.random.Generator,
    keys: Sequence[str] = KEYS,
    same: Sequence[str] = (),
    rules: Rules | None = None,
) -> Ratio:
    """Ratio of a cost column; `same` keeps only matched runs that agree in those columns."""
    return cost_ratios(frame, [(a, b)], [column], rng=rng, keys=keys, same=same, rules=rules)[0]


def cost_ratios(
    frame: StudyFrame | pd.DataFrame,
    contrasts: Sequence[tuple[str | Selection, str | Selection]],
    columns: Sequence[str],
    *,
    rng: np.random.Generator,
    keys: Sequence[str] = KEYS,
    same: Sequence[str] = (),
    rules: Rules | None = None,
) -> tuple[Ratio, ...]:
    """Ratios of every contrast in every column, columns outermost."""
    rules = rules or Rules()
    study = StudyFrame.of(frame)
    known = study.table.columns
    missing = [c for c in same if c not in known]
    if missing:
        raise InputError([f"no column '{c}'.{did_you_mean(c, known)}" for c in missing])
    keys = tuple(map(own_name, keys))
    ratios = []
    for column in columns:
        usable, notes = positive_runs(study, column)
        usable = usable.reset_index(drop=True)
        settings = [c for c in dict.fromkeys((*same, *SETTINGS)) if c in usable]
        codes = usable[list(keys)].assign(
            **{c: pd.factorize(usable[c].astype(str))[0] for c in settings}
        )
        sides: dict[str, tuple[pd.DataFrame, list[str]]] = {}  # most contrasts share one
        ranges: dict[str, _Ranges] = {}
        for a, b in contrasts:
            matched = match_usable(usable, notes, a, b, keys=keys, sides=sides)
            unlike = matched.cells
            if not matched.reason:
                for one in map(Selection.parse, (a, b)):
                    if str(one) not in ranges:
                        ranges[str(one)] = _ranges(codes[one.mask(usable)], keys, settings)
                both = [ranges[str(Selection.parse(one))] for one in (a, b)]
                unlike = _unlike(both, matched.cells, settings)
            ratios.append(
                _ratio(
                    matched, unlike, column, tuple(same), rules, intervals.stream(rng, a, b, column)
                )
            )
    return tuple(ratios)


def _ratio(
    matched: Matched,
    unlike: pd.DataFrame,
    column: str,
    same: tuple[str, ...],
    rules: Rules,
    rng: np.random.Generator,
) -> Ratio:
    start = Ratio(
        matched.a, matched.b, column, 0, 0, same=same, notes=matched.notes, cannot=matched.reason
    )
    if matched.reason:
        return start
    keep = ~np.asarray(unlike[list(same)], dtype=bool).any(axis=1)
    if not keep.any():
        return replace(start, cannot=f"no matched runs agree in {', '.join(same)}")
    logs = matched.differences[keep]
    tasks = pd.factorize(matched.cells["task"].astype(str).to_numpy(object)[keep])[0]
    low, high, resampled = _log_interval(logs, tasks, rules, rng)
    ratio = float(np.exp(logs.mean()))
    return replace(
        start,
        n_pairs=len(logs),
        n_tasks=int(tasks.max()) + 1,
        ratio=ratio,
        low=low,
        high=high,
        factor=1 / ratio,
        reduction_percent=100 * (1 - ratio),
        resampled=resampled,
        unlike={str(c): int(n) for c in unlike if (n := unlike[c].to_numpy()[keep].sum())},
    )


def _log_interval(
    logs: np.ndarray, tasks: np.ndarray, rules: Rules, rng: np.random.Generator
) -> tuple[float | None, float | None, str]:
    by_task = int(tasks.max()) + 1 >= intervals.FEW
    clusters = tasks if by_task else np.arange(len(logs))
    if len(logs) > 1 and np.ptp(logs) < 1e-12:  # counted, not measured: parameters, bytes
        same = finite(np.exp(logs.mean()))
        return same, same, "tasks" if by_task else "runs"
    low, high = intervals.of_clusters(logs, clusters, rules, rng)
    if low is None or high is None:
        return None, None, ""
    return finite(np.exp(low)), finite(np.exp(high)), "tasks" if by_task else "runs"


# The keys that a side has, and the least and the most of its settings' codes in each cell.
_Ranges = tuple[list[str], pd.DataFrame, pd.DataFrame]


def _ranges(rows: pd.DataFrame, keys: Sequence[str], settings: Sequence[str]) -> _Ranges:
    known = [k for k in keys if rows[k].notna().all()]
    by_cell = rows.groupby(known, sort=False)[list(settings)]
    return known, by_cell.min(), by_cell.max()


def _unlike(sides: Sequence[_Ranges], cells: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """[cells, settings]: whether runs of a cell differ in a setting, given as codes."""
    bounds = []
    for known, *extremes in sides:
        index = cells[known[0]] if len(known) == 1 else pd.MultiIndex.from_frame(cells[known])
        bounds += [extreme.reindex(index).to_numpy() for extreme in extremes]
    differs = np.max(bounds, axis=0) != np.min(bounds, axis=0)
    return pd.DataFrame(differs, columns=list(settings))


@dataclass(frozen=True)
class PerResource(Result):
    """Score per unit of a cost, over the cells that all arms share.

    `score` is the mean in points, `cost` the geometric mean. A small denominator flatters: a
    majority guess has no parameters at all. Read it beside the Pareto set.
    """

    arm: str
    column: str
    n_cells: int
    score: float
    cost: float
    score_per_unit: float


def score_per_cost(
    frame: StudyFrame | pd.DataFrame,
    columns: Sequence[str],
    arms: Sequence[str] | None = None,
    *,
    keys: Sequence[str] = KEYS,
    score: str = "score",
) -> tuple[PerResource, ...]:
    """Score per parameter, megabyte, second ...: one row per arm and column, best first."""
    study = StudyFrame.of(frame)
    scores, _ = usable_runs(study, score)
    result: list[PerResource] = []
    for column in columns:
        costs, _ = positive_runs(study, column)
        names = list(arms) if arms else sorted(set(scores["arm"]) & set(costs["arm"]))
        tables = (
            shared_cells(study, names, keys=keys, score=score),
            shared_costs(study, column, names, keys=keys),
        )
        if any(t.reason for t in tables):
            continue
        both = tables[0].table.index.intersection(tables[1].table.index)
        if not len(both):
            continue
        score_of, cost_of = (replace(t, table=t.table.loc[both]) for t in tables)
        mean = dict(zip(score_of.table, score_of.weights @ score_of.values, strict=True))
        cost = dict(zip(cost_of.table, np.exp(cost_of.weights @ cost_of.values), strict=True))
        rows = [
            PerResource(str(n), column, len(both), float(mean[n]), float(cost[n]),
                        float(mean[n] / cost[n]))
            for n in names
        ]  # fmt: skip
        result += sorted(rows, key=lambda r: -r.score_per_unit)
    return tuple(result)


@dataclass(frozen=True)
class Budget(Result):
    """Which runs of two arms cost the same, so that what is compared is the method."""

    a: str
    b: str
    column: str
    tolerance: float
    n_cells: int
    cannot: str = ""


def budget_matched(
    frame: StudyFrame | pd.DataFrame,
    a: str | Selection,
    b: str | Selection,
    *,
    column: str = "trainable_params",
    tolerance: float = 0.1,
    keys: Sequence[str] = KEYS,
) -> tuple[StudyFrame, Budget]:
    """Keep, in every cell, the run of a and the run of b whose budgets are closest, within
    `tolerance` (0.1 = 10 %). "Rank 8" is no budget: it differs between variants.

    The study returned is for `compare`; it is empty where no cell has runs of like budget, and the
    result says by what ratio the arms differ instead.
    """
    study = StudyFrame.of(frame)
    usable, _ = positive_runs(study, column)
    nothing = study.where(np.zeros(len(study.table), bool))
    keys = list(map(own_name, keys))
    sides = [
        Selection.parse(s).rows(usable)[[*keys, "value"]].rename_axis("row").reset_index()
        for s in (a, b)
    ]
    on = [k for k in keys if all(len(s) and s[k].notna().all() for s in sides)]
    if "task" not in on:
        why = f"no run of {a if sides[0].empty else b} with a known {column}"
        return nothing, Budget(str(a), str(b), column, tolerance, 0, why)
    joined = sides[0].merge(sides[1], on=on, suffixes=("_a", "_b"))
    if joined.empty:
        why = f"{a} and {b} share no cell"
        return nothing, Budget(str(a), str(b), column, tolerance, 0, why)
    joined["gap"] = (joined["value_a"] - joined["value_b"]).abs()
    best = joined.loc[joined.groupby(on)["gap"].idxmin()]
    typical = float(np.exp((best["value_a"] - best["value_b"]).mean()))
    close = best[best["gap"] <= np.log1p(tolerance)]
    rows = pd.Index(close["row_a"]).union(pd.Index(close["row_b"]))
    chosen = study.where(study.table.index.isin(rows))
    why = "" if len(close) else (
        f"no cell has runs within {tolerance:.0%}: {a} has {typical:.2g} times the {column} of {b}"
    )  # fmt: skip
    return chosen, Budget(str(a), str(b), column, tolerance, len(close), why)
