"""Score against cost, described: means of every model, and which of them no other beats.

All functions take a tidy frame (`records.tidy.tidy`). Only encoders and scores in points take part.
Nothing here is tested: `pareto` says how sure a place on the front is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlora.evidence.pareto import dominates
from kdlora.records.tidy import mean, numeric, places, scored
from kdlora.vocabulary.metric import metric


@dataclass(frozen=True)
class TaskMean:
    """Means of a model over its `n` runs on a task: column -> value, in the unit of the column.

    A score is in points. What nobody measured is absent.
    """

    pair: str
    task: str
    arm: str
    n: int
    values: dict[str, float]


@dataclass(frozen=True)
class PairMean:
    """A model of a pair on two axes: means of its means over the tasks that all models have."""

    pair: str
    arm: str
    runs: int
    x: float
    y: float


def weighed_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The scored cells of encoders whose task is scored in points; scores in points."""
    done = scored(frame)
    done = done[done["role"] != "baseline"]
    known = [metric(str(name)) for name in done["metric"]]
    cells = done.assign(score=done["score"] * [one.factor for one in known])
    return cells.loc[[one.in_points for one in known]]


def known_costs(cells: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns that were measured in more than one cell."""
    return [column for column in columns if (cells[column] > 0).sum() > 1]


def task_means(cells: pd.DataFrame, columns: Sequence[str]) -> list[TaskMean]:
    """Every model of `weighed_cells` on every task, means over its runs."""
    found = []
    known = {column: numeric(cells, column).to_numpy() for column in columns}
    runs = cells["run_id"].to_numpy()
    for (pair, task, arm), rows in places(cells, "pair", "task", "arm"):
        means = {column: mean(values[rows]) for column, values in known.items()}
        values = {c: value for c, value in means.items() if np.isfinite(value) and value != 0}
        found.append(TaskMean(pair, task, arm, len(set(runs[rows])), values))
    return found


def pair_means(means: Sequence[TaskMean], x: str, y: str) -> list[PairMean]:
    """A model a pair and arm, over the tasks that all arms of the pair have on both axes.

    The page's script does the same for what is chosen there.
    """
    rows = []
    for pair in dict.fromkeys(one.pair for one in means):
        own = [m for m in means if m.pair == pair and x in m.values and y in m.values]
        arms = list(dict.fromkeys(m.arm for m in own))
        have = {t: {m.arm for m in own if m.task == t} for t in {m.task for m in own}}
        tasks = {t for t, found in have.items() if len(found) == len(arms)}
        for arm in arms if tasks else []:
            part = [m for m in own if m.arm == arm and m.task in tasks]
            across, up = (sum(m.values[axis] for m in part) / len(part) for axis in (x, y))
            rows.append(PairMean(pair, arm, sum(m.n for m in part), across, up))
    return rows


def not_beaten(points: Sequence[PairMean], directions: tuple[int, int]) -> list[PairMean]:
    """The points that no other one beats on both axes, from left to right.

    `directions` of x and y: +1 where more is better, -1 where less is.
    """
    if not points:
        return []
    values = np.array([[p.x, p.y] for p in points])
    beats = dominates(values, np.array(directions))
    kept = [p for i, p in enumerate(points) if not beats[:, i].any()]
    return sorted(kept, key=lambda p: p.x)


def cost_means(cells: pd.DataFrame, column: str) -> dict[tuple[str, str, str], float]:
    """(pair, task, arm) -> the mean of a cost over the cells that know it."""
    known = cells[cells[column] > 0]
    values = known[column].to_numpy(float)
    return {key: mean(values[rows]) for key, rows in places(known, "pair", "task", "arm")}


def runs_behind(means: Sequence[TaskMean]) -> int:
    """The runs of all models on all tasks together."""
    return sum(one.n for one in means)


def runs_of_models(cells: pd.DataFrame) -> list[int]:
    """How many runs stand behind a model on a task: every number that occurs, in order."""
    trained = cells[cells["role"] != "baseline"]
    return sorted(set(trained.groupby(["pair", "task", "arm"])["run_id"].nunique()))


def from_worst_to_best(values: Sequence[float], direction: int) -> list[float]:
    """Values from 0 (worst) to 1 (best); 1 for all where they are alike, NaN where unknown."""
    found = np.array(values, float)
    known = np.isfinite(found)
    if not known.any():
        return [float("nan")] * len(found)
    low, high = found[known].min(), found[known].max()
    if high - low < 1e-12 * max(abs(high), 1e-12):
        return np.where(known, 1.0, np.nan).tolist()
    shares = (found - low if direction > 0 else high - found) / (high - low)
    return shares.tolist()
