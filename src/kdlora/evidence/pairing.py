"""Which runs of two arms belong together, and their differences: positive means that a is better.

A difference of accuracies cannot be averaged with one of RMSEs, so a comparison has one unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from kdlora.errors import InputError
from kdlora.evidence.estimator import Design, Nesting
from kdlora.evidence.result import Result
from kdlora.evidence.scores import KEYS, Selection, labels, usable_runs
from kdlora.records.tidy import StudyFrame, own_name
from kdlora.vocabulary.arm import SEEDLESS
from kdlora.vocabulary.metric import POINTS

SETTINGS = ("seed", "pair", "rank", "alpha", "lr", "batch_size", "epochs", "max_length")
_MEASURED = (
    "score_a", "score_b", "difference", "metric", "run_a", "run_b", "runs_a", "runs_b",
    "seedless_a", "seedless_b",
)  # fmt: skip
_KEYS = ("pair", "task", "seed")
Cell = tuple[str, str, str]  # of `_KEYS`, as text
WeightedRuns = tuple[tuple[str, float], ...]  # run ids with their weights in a score


@dataclass(frozen=True)
class Matched(Result):
    """Cells that both sides have, sorted by task and block.

    `cells` has the key columns, `score_a`, `score_b`, `difference` in `unit` (direction turned, so
    a higher score is better), the metric and the runs they are from: `run_a` and `run_b` name them,
    `runs_a` and `runs_b` are all of them with their weights. `seedless_a` and `seedless_b` tell of
    runs in which nothing is random. `reason` says why there is nothing to compare, when there is
    not.
    """

    a: str
    b: str
    keys: tuple[str, ...]
    block: tuple[str, ...]
    unit: str
    score: str
    only_a: int
    only_b: int
    notes: tuple[str, ...]
    reason: str
    cells: pd.DataFrame = field(repr=False, compare=False)

    @property
    def differences(self) -> np.ndarray:
        return self.cells["difference"].to_numpy(float)

    @property
    def nesting(self) -> Nesting:
        blocks = np.asarray(labels(self.cells, self.block), dtype=object)
        return Nesting.of(self.cells["task"].astype(str).to_numpy(object), blocks)

    @cached_property
    def design(self) -> Design:
        """Which of the matched runs are independent: runs of one seed are not, nor are those that
        share a trained run. Without a seed among the keys all are of one.
        """
        cells = self.cells
        task = cells["task"].astype(str)
        seed = cells["seed"].astype(str) if "seed" in cells else pd.Series("", index=cells.index)
        codes = np.unique(seed, return_inverse=True)[1]
        blocks = self.nesting.block_of_run()
        shared = False
        for side in "ab":
            random = ~cells[f"seedless_{side}"].to_numpy(bool)
            places: dict[tuple[str, str], list[int]] = {}
            for row, (where, runs) in enumerate(zip(task, cells[f"runs_{side}"], strict=True)):
                for run, _ in runs if random[row] else ():
                    places.setdefault((where, run), []).append(row)
            for rows in places.values():
                if len(rows) < 2:
                    continue
                shared = shared or len(np.unique(blocks[rows])) > 1
                joined = np.unique(codes[rows])
                codes = np.where(np.isin(codes, joined), joined[0], codes)
        return Design(self.nesting, codes, shared)

    @cached_property
    def places(self) -> frozenset[Cell]:
        """Pair, task and seed of the matched cells; none where the keys are others."""
        return frozenset(cell_keys(self.cells)) if set(_KEYS) <= {*self.cells} else frozenset()


def cell_keys(cells: pd.DataFrame) -> list[Cell]:
    """Pair, task and seed of every cell, as text."""
    return list(zip(*(cells[key].astype(str) for key in _KEYS), strict=True))


def cells_used(matched: Matched) -> dict[str, list]:
    """Block -> what the runs in it are told apart by (seeds as a rule), for the record."""
    inside = [k for k in matched.keys if k not in matched.block] or list(matched.block)
    used: dict[str, list] = {}
    columns = [matched.cells[k].astype(object).tolist() for k in (*matched.block, *inside)]
    for row in zip(*columns, strict=True):
        label = "/".join(map(str, row[: len(matched.block)]))
        rest = row[len(matched.block) :]
        used.setdefault(label, []).append(rest[0] if len(rest) == 1 else list(rest))
    return used


def match(
    frame: StudyFrame | pd.DataFrame,
    a: str | Selection,
    b: str | Selection,
    *,
    keys: Sequence[str] = KEYS,
    block: Sequence[str] | None = None,
    score: str = "score",
) -> Matched:
    """Pair the runs of `a` and `b` cell by cell; what only one side has is counted, not used.

    `keys` name what paired runs share; several runs of an arm in one cell are averaged. `block`
    (default: the keys without seed) names the cells whose runs are replicates of one another.
    A side that has no value for a key (a baseline has no seed) is compared with every one.
    """
    usable, notes = usable_runs(frame, score)
    return match_usable(usable, notes, a, b, keys=keys, block=block, score=score)


def match_usable(
    usable: pd.DataFrame,
    notes: Iterable[str],
    a: str | Selection,
    b: str | Selection,
    *,
    keys: Sequence[str] = KEYS,
    block: Sequence[str] | None = None,
    score: str = "score",
    sides: dict[str, tuple[pd.DataFrame, list[str]]] | None = None,
) -> Matched:
    """`match` on what `usable_runs` returned, for many comparisons of one frame.

    `sides` keeps what `one_side` gave for each selection, for the next comparison with it.
    """
    a, b = Selection.parse(a), Selection.parse(b)
    keys = tuple(map(own_name, keys))
    block = tuple(map(own_name, block or ())) or tuple(k for k in keys if k != "seed")
    problems = [f"no column '{k}' to pair on" for k in keys if k not in usable]
    if "task" not in keys or "task" not in block:
        problems.append(
            f"the keys must name the task, and so must the block; given {keys}, {block}"
        )
    problems += [f"block column '{k}' is not among the keys {keys}" for k in block if k not in keys]
    if problems:
        raise InputError(problems, where="pairing")

    notes, sides = list(notes), {} if sides is None else sides
    for selection in (a, b):
        if str(selection) not in sides:
            own: list[str] = []
            sides[str(selection)] = (one_side(selection, usable, keys, own), own)
        notes += sides[str(selection)][1]
    left, right = sides[str(a)][0], sides[str(b)][0]
    empty = [str(s) for s, side in ((a, left), (b, right)) if side.empty]

    def result(cells: pd.DataFrame, unit: str, only: tuple[int, int], reason: str) -> Matched:
        return Matched(str(a), str(b), keys, block, unit, score, *only, tuple(notes), reason, cells)

    if empty:
        arms = ", ".join(sorted(map(str, usable["arm"].unique()))) or "none"
        reason = f"no finished run of {' and of '.join(empty)}; arms with runs: {arms}"
        return result(_no_cells(keys), POINTS, (len(left), len(right)), reason)
    on = [k for k in keys if left[k].notna().all() and right[k].notna().all()]
    for k in keys:
        if k not in on and (left[k].notna().any() and right[k].notna().any()):
            left, right = left[left[k].notna()], right[right[k].notna()]
            on.append(k)
    cells = left.merge(right, on=on, suffixes=("_a", "_b"))
    for k in keys:  # a key that only one side knows comes from that side
        if k not in on:
            cells[k] = cells[f"{k}_a"].where(cells[f"{k}_a"].notna(), cells[f"{k}_b"])
            if left[k].notna().any() or right[k].notna().any():
                one = a if right[k].notna().any() else b
                notes.append(f"{one} has no {k}: its result is compared with every {k}")
    repeat = bool(on) and bool(cells.duplicated(on).any())
    only = (_unmatched(left, cells, on, repeat), _unmatched(right, cells, on, repeat))
    if cells.empty:
        return result(_no_cells(keys), POINTS, only, f"{a} and {b} share no cell of {keys}")
    cells, unit, reason = _one_unit(cells, notes)
    cells = _once_each(cells, notes)
    # Equal scores must tie: 100 * 0.83 and a mean of it may differ in the last bit.
    cells["difference"] = (cells["score_a"] - cells["score_b"]).round(10)
    cells = cells.rename(columns={"metric_a": "metric"})[[*keys, *_MEASURED]]
    order = [*dict.fromkeys(("task", *block, *keys))]
    cells = cells.iloc[_by_text(cells, order)].reset_index(drop=True)
    return result(cells, unit, only, reason)


def one_side(
    selection: Selection, usable: pd.DataFrame, keys: tuple[str, ...], notes: list[str]
) -> pd.DataFrame:
    """One row a cell: mean score, the metric, its unit, the runs and what to call them."""
    used = dict.fromkeys(
        (*keys, "arm", "adaptation", "value", "metric", "unit", "run_id", *SETTINGS)
    )
    meant = np.flatnonzero(selection.mask(usable))
    rows = pd.DataFrame(
        {"run" if c == "run_id" else c: usable[c].array.take(meant) for c in used if c in usable}
    )
    if rows.empty:
        return rows
    rows["seedless"] = rows["adaptation"].isin(SEEDLESS)
    rows["runs"] = rows["run"].map(lambda run: ((str(run), 1.0),))
    rows["metrics"] = 1
    place = list(dict.fromkeys((*keys, "arm")))
    cells = rows
    if rows.duplicated(place).any():
        cells = rows.drop_duplicates([*place, "run"])
        if cells.duplicated(place).any():
            cells = _averaged(cells, place, selection, notes)
    arms = cells["arm"].nunique()
    if arms > 1 and not {"arm", "adaptation"} & set(keys):
        by_cell = cells.groupby(list(keys), dropna=False, sort=False, observed=True)
        full = by_cell["arm"].transform("size") == arms
        if not full.all():
            dropped = cells[~full].groupby(list(keys), dropna=False).ngroups
            notes.append(f"{selection}: {dropped} cells lack one of its {arms} arms: left out")
        by_cell = cells[full].groupby(list(keys), dropna=False, sort=False, observed=True)
        cells = by_cell.agg(
            value=("value", "mean"), metric=("metric", "first"), metrics=("metric", "nunique"),
            unit=("unit", "first"), run=("run", "-".join), runs=("runs", _mean_of),
            seedless=("seedless", "all"),
        ).reset_index()  # fmt: skip
    mixed = cells["metrics"] > 1
    if mixed.any():
        notes.append(f"{selection}: {int(mixed.sum())} cells mix metrics: left out")
        cells = cells[~mixed]
    kept = cells[[*keys, "value", "metric", "unit", "run", "runs", "seedless"]]
    return kept.rename(columns={"value": "score"})


def _mean_of(sides: Iterable[WeightedRuns]) -> WeightedRuns:
    """The runs of a mean over scores that are of several runs each."""
    every = list(sides)
    return tuple((run, weight / len(every)) for own in every for run, weight in own)


def _averaged(
    rows: pd.DataFrame, place: list[str], selection: Selection, notes: list[str]
) -> pd.DataFrame:
    """One row a place; a note says in what the averaged runs differ."""
    cells = (
        rows.groupby(place, dropna=False, sort=False, observed=True)
        .agg(value=("value", "mean"), metric=("metric", "first"), metrics=("metric", "nunique"),
             unit=("unit", "first"), run=("run", "first"), size=("run", "size"),
             runs=("runs", _mean_of), seedless=("seedless", "all"))
        .reset_index()
    )  # fmt: skip
    differ = [c for c in SETTINGS if c in rows and c not in place and rows[c].nunique() > 1]
    notes.append(
        f"{selection}: {int((cells['size'] > 1).sum())} cells average several runs"
        + (f" that differ in {', '.join(differ)}" if differ else " with the same settings")
    )
    return cells


def _one_unit(cells: pd.DataFrame, notes: list[str]) -> tuple[pd.DataFrame, str, str]:
    """Keep the cells of one unit: points where there are any. Also the reason if none are left."""
    differ = cells["metric_a"] != cells["metric_b"]
    if differ.any():
        tasks = ", ".join(sorted(cells.loc[differ, "task"].astype(str).unique()))
        notes.append(f"a and b were scored by different metrics on {tasks}: left out")
        cells = cells[~differ]
    units = list(cells["unit_a"].unique())
    unit = POINTS if POINTS in units else (units[0] if units else POINTS)
    if len(units) > 1 and unit != POINTS:
        return cells[:0].copy(), POINTS, f"scores in unlike units ({', '.join(units)})"
    other = cells["unit_a"] != unit
    if other.any():
        tasks = ", ".join(sorted(cells.loc[other, "task"].astype(str).unique()))
        notes.append(f"{tasks}: scored in another unit than {unit}, so left out of the averages")
    kept = cells[~other].copy()
    return kept, unit, "" if len(kept) else "no cell is scored by the same metric on both sides"


def _once_each(cells: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The same two runs can fill several cells (a student beside two teachers): count them once."""
    repeated = cells.duplicated(["task", "run_a", "run_b"])
    if repeated.any():
        notes.append(f"{int(repeated.sum())} cells repeat the same two runs: counted once")
    return cells[~repeated].copy()


def _by_text(cells: pd.DataFrame, order: list[str]) -> list[int]:
    """The places of the rows as their texts sort, what is missing last; pandas takes far longer."""
    columns = (cells[key].astype(str).fillna("\U0010ffff").tolist() for key in order)
    texts = list(zip(*columns, strict=True))
    return sorted(range(len(texts)), key=texts.__getitem__)


def _unmatched(side: pd.DataFrame, cells: pd.DataFrame, on: list[str], repeat: bool) -> int:
    if not on:
        return 0
    if len(cells) == len(side) and not repeat:
        return 0  # every cell of this side was used, once
    used = pd.MultiIndex.from_frame(cells[on])
    return int((~pd.MultiIndex.from_frame(side[on]).isin(used)).sum())


def matched_sums(
    a: str,
    b: str,
    blocks: Mapping[str, Sequence[tuple[pd.DataFrame, float]]],
    *,
    notes: Iterable[str] = (),
) -> Matched:
    """Weighted sums of models' scores, seed by seed: those with positive weights are side a.

    blocks: name -> the models that are summed there, each as its rows of `usable_runs` on one task
    and with one unit, with its weight. Seeds that not all models of a block have are left out; a
    model in which nothing is random stands in every seed.
    """
    rows = [row for block, models in blocks.items() for row in _sums(block, models)]
    first = next(iter(blocks.values()))[0][0]
    cells = pd.DataFrame(rows, columns=[*KEYS, *_MEASURED]) if rows else _no_cells(KEYS)
    reason = "" if rows else f"{a} and {b} share no seed"
    unit = str(first["unit"].iloc[0])
    return Matched(a, b, KEYS, KEYS[:2], unit, "score", 0, 0, tuple(notes), reason, cells)


def _sums(block: str, models: Sequence[tuple[pd.DataFrame, float]]) -> Iterator[dict[str, Any]]:
    """A row a seed of which all models have a run."""
    random = [not own["adaptation"].isin(SEEDLESS).all() for own, _ in models]
    seeds = [set(own["seed"]) for (own, _), varies in zip(models, random, strict=True) if varies]
    first = models[0][0].iloc[0]
    for seed in sorted(set.intersection(*seeds)) if seeds else [first["seed"]]:
        sides: dict[str, list[tuple[str, float]]] = {"a": [], "b": []}
        scores, seedless = {"a": 0.0, "b": 0.0}, {"a": True, "b": True}
        for (own, weight), varies in zip(models, random, strict=True):
            here = own[own["seed"] == seed] if varies else own
            side = "a" if weight > 0 else "b"
            sides[side] += [(str(run), abs(weight) / len(here)) for run in here["run_id"]]
            scores[side] += abs(weight) * float(here["value"].mean())
            seedless[side] = seedless[side] and not varies
        row: dict[str, Any] = {"pair": block, "task": str(first["task"]), "seed": seed}
        for side in "ab":
            row[f"score_{side}"] = scores[side]
            row[f"run_{side}"] = "-".join(run for run, _ in sides[side])
            row[f"runs_{side}"] = tuple(sides[side])
            row[f"seedless_{side}"] = seedless[side]
        yield row | {
            "metric": str(first["metric"]),
            "difference": round(scores["a"] - scores["b"], 10),
        }


def _no_cells(keys: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame({k: [] for k in (*keys, *_MEASURED)})
